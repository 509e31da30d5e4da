/** The client of Bay: sandboxes, their commands, files and kernels. */

export { Attachment, type AttachOptions } from "./attach.js";
export { Box, type TerminalOptions } from "./box.js";
export type { Source } from "./bytes.js";
export type { Call } from "./call.js";
export { CellFailed, CellResult, type Image } from "./cells.js";
export type { CheckpointOptions } from "./checkpoints.js";
export { Client } from "./client.js";
export type { ClientOptions } from "./config.js";
export * from "./errors.js";
export type { EventOptions } from "./events.js";
export { Execs, Proc, type Command, type OutputOptions } from "./execs.js";
export type { ArchiveOptions, Files, ListFilesOptions, ReadOptions, SearchOptions, WriteOptions } from "./files.js";
export { Repl, type KernelRuns, type Kernels } from "./kernels.js";
export type { Network } from "./network.js";
export { OutputChunk, type Stream } from "./output.js";
export type { FetchOptions, Ports } from "./ports.js";
export { CommandFailed, RunResult } from "./results.js";
export type { Sandboxes } from "./sandboxes.js";
export type { components } from "./schema.js";
export type { Services } from "./services.js";
export type * from "./types.js";
export { VERSION } from "./version.js";
export { Watch } from "./watch.js";
