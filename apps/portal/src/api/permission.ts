/** Who may call what, from the API table: the portal offers nothing that the server would refuse. */
import type { OperationName, RoleName } from '@typevisor/api'
import { ROUTE_DATA } from '@typevisor/api/routes'

const RANK: Record<RoleName | 'none', number> = { none: 0, viewer: 1, operator: 2, admin: 3 }

export const mayCall = (role: RoleName, operation: OperationName): boolean => RANK[role] >= RANK[ROUTE_DATA[operation].role]
