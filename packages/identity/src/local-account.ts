/** The account behind the local credential: the machine's own user. It has no password and is never removed. */
export const LOCAL_ACCOUNT_ID = '00000000-0000-7000-8000-000000010ca1'
export const LOCAL_ACCOUNT_NAME = 'local'
