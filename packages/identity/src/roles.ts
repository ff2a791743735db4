/** Roles in rising order: each may do what the ones before it may. */
export const ROLES = ['viewer', 'operator', 'admin'] as const
export type Role = (typeof ROLES)[number]

export const isRole = (text: string): text is Role => (ROLES as readonly string[]).includes(text)

/** Whether somebody with role `have` may do what asks for `want`. */
export const roleAllows = (have: Role, want: Role): boolean => ROLES.indexOf(have) >= ROLES.indexOf(want)
