export { commandFault, nodeCommandRunner, runChecked } from './node-command.ts'
export type { CommandOptions, CommandResult, CommandRunner, VolumeFiles, VolumeInfo, VolumeStore } from './ports.ts'
