/**
 * Bay's errors. A CallerError is the caller's to mend, a HostError Bay's or the host's, and ConnectionFailed is
 * the SDK's own. Each is made from the `code` of an answer; `docs/errors.md` of Bay lists them.
 */

export interface ErrorFacts {
  status?: number;
  details?: Record<string, unknown>;
  requestId?: string | null;
  cause?: unknown;
}

/** The base class of all errors of this SDK. */
export class BayError extends Error {
  static readonly code: string = "error";
  static readonly status: number = 500;
  static readonly retryable: boolean = false;

  /** Its name on the wire. */
  readonly code: string;
  /** The HTTP status; 0 where there was no answer. */
  readonly status: number;
  /** Whether the same call may succeed later. */
  readonly retryable: boolean;
  /** Data about it for programs, with the names of the wire. */
  readonly details: Record<string, unknown>;
  /** The id of the request, to find it in the server's log. */
  readonly requestId: string | null;

  constructor(message: string, facts: ErrorFacts = {}) {
    super(message, { cause: facts.cause });
    const kind = new.target;
    this.name = kind.name;
    this.code = kind.code;
    this.status = facts.status ?? kind.status;
    this.retryable = kind.retryable;
    this.details = facts.details ?? {};
    this.requestId = facts.requestId ?? null;
  }
}

/** The caller must change the request. */
export class CallerError extends BayError {
  static override readonly status: number = 400;
}

/** Bay or its host failed; the request was valid. */
export class HostError extends BayError {
  static override readonly retryable: boolean = true;
}

/** The SDK could not reach Bay, or the connection broke. `details.sent` false: nothing reached the server. */
export class ConnectionFailed extends BayError {
  static override readonly code = "connection_failed";
  static override readonly status = 0;
  static override readonly retryable = true;
}

/** The request has no key, or an unknown, revoked or expired one. */
export class Unauthorized extends CallerError {
  static override readonly code = "unauthorized";
  static override readonly status = 401;
}

/** The key is valid but lacks a permission. */
export class Forbidden extends CallerError {
  static override readonly code = "forbidden";
  static override readonly status = 403;
}

/** You have nothing with that id or name; another owner's things answer the same. */
export class NotFound extends CallerError {
  static override readonly code: string = "not_found";
  static override readonly status = 404;
}

/** The sandbox has no such file or directory. */
export class FileMissing extends NotFound {
  static override readonly code = "file_not_found";
}

/** A field is missing, of the wrong type, or out of range; `details` names it. */
export class InvalidArgument extends CallerError {
  static override readonly code: string = "validation_error";
  static override readonly status: number = 422;
}

/** The path is empty, absolute, has a NUL, or leaves the workspace. */
export class InvalidPath extends InvalidArgument {
  static override readonly code = "invalid_path";
  static override readonly status = 400;
}

/** The body is larger than the limit in the message. */
export class PayloadTooLarge extends CallerError {
  static override readonly code = "payload_too_large";
  static override readonly status = 413;
}

/** The path exists but does not take this method. */
export class MethodNotAllowed extends CallerError {
  static override readonly code = "method_not_allowed";
  static override readonly status = 405;
}

/** The profile lacks a capability of the call. `details.available` lists the available ones. */
export class CapabilityNotSupported extends CallerError {
  static override readonly code = "capability_not_supported";
}

/** The request conflicts with the present state: a taken name, a used cargo, a reused idempotency key. */
export class Conflict extends CallerError {
  static override readonly code: string = "conflict";
  static override readonly status = 409;
}

/** The sandbox is past its `expires_at` and takes no work. Create a new one. */
export class SandboxExpired extends Conflict {
  static override readonly code = "sandbox_expired";
}

/** The sandbox never expires, so there is nothing to extend. */
export class SandboxTtlInfinite extends Conflict {
  static override readonly code = "sandbox_ttl_infinite";
}

/** A secret that the sandbox is given was deleted. */
export class SecretMissing extends Conflict {
  static override readonly code = "secret_missing";
}

/** The output at that offset is no longer kept. Continue from `details.first_offset`. */
export class OutputGone extends CallerError {
  static override readonly code = "output_gone";
  static override readonly status = 410;
}

/** The file has no byte in that range. `details.size` is its size. */
export class RangeNotSatisfiable extends CallerError {
  static override readonly code = "range_not_satisfiable";
  static override readonly status = 416;
}

/** The registry has no such repository, tag or digest, or lacks a layer of it. */
export class ImageNotFound extends NotFound {
  static override readonly code = "image_not_found";
}

/** The registry wants other credentials, or Bay's operator does not allow it. */
export class ImageDenied extends CallerError {
  static override readonly code = "image_denied";
  static override readonly status = 403;
}

/** The image breaks a rule of its format or a bound of Bay's. */
export class ImageInvalid extends CallerError {
  static override readonly code = "image_invalid";
  static override readonly status = 422;
}

/** The image is for other machines than Bay's. */
export class ImagePlatform extends CallerError {
  static override readonly code = "image_platform";
  static override readonly status = 422;
}

/** The image is larger than the limit in the message. */
export class ImageTooLarge extends CallerError {
  static override readonly code = "image_too_large";
  static override readonly status = 413;
}

/** A step of a build failed; the message has its line and its last output. */
export class BuildFailed extends CallerError {
  static override readonly code = "build_failed";
  static override readonly status = 422;
}

/** The request was slower than the limit in the message. */
export class RequestTimeout extends CallerError {
  static override readonly code = "request_timeout";
  static override readonly status = 408;
  static override readonly retryable = true;
}

/** A limit of the key or the owner is reached; the message names it. */
export class QuotaExceeded extends CallerError {
  static override readonly code = "quota_exceeded";
  static override readonly status = 429;
  static override readonly retryable = true;
}

/** The sandbox's compute is not ready yet. */
export class SandboxNotReady extends HostError {
  static override readonly code = "session_not_ready";
  static override readonly status = 503;
}

/** The host cannot run containers as requested. */
export class DriverUnavailable extends HostError {
  static override readonly code = "driver_unavailable";
  static override readonly status = 503;
}

/** The disk, or the sandbox's share of it, is full. */
export class StorageFull extends HostError {
  static override readonly code = "storage_full";
  static override readonly status = 507;
}

/** Bay's database cannot be reached or used; the call may have taken effect. */
export class DatabaseUnavailable extends HostError {
  static override readonly code = "database_unavailable";
  static override readonly status = 503;
}

/** The registry cannot be reached, is too slow, or fails. */
export class RegistryUnavailable extends HostError {
  static override readonly code = "registry_unavailable";
  static override readonly status = 503;
}

/** The object store cannot be reached, is too slow, or fails. */
export class ObjectStoreUnavailable extends HostError {
  static override readonly code = "object_store_unavailable";
  static override readonly status = 503;
}

/** The object store refuses Bay: its bucket, region or credentials are wrong. Bay's operator mends them. */
export class ObjectStoreRefused extends HostError {
  static override readonly code = "object_store_refused";
  static override readonly status = 502;
  static override readonly retryable = false;
}

/** The runtime inside the sandbox failed or sent an invalid answer. */
export class ShipError extends HostError {
  static override readonly code = "ship_error";
  static override readonly status = 502;
}

/** Nothing in the sandbox listens on that port; `details.listening` lists the ports with a listener. */
export class PortClosed extends HostError {
  static override readonly code = "port_closed";
  static override readonly status = 502;
}

/** The call took longer than allowed, and may or may not have taken effect. */
export class Timeout extends HostError {
  static override readonly code = "timeout";
  static override readonly status = 504;
}

/** Bay has a defect. Report it with the request id. */
export class InternalError extends HostError {
  static override readonly code = "internal_error";
  static override readonly status = 500;
  static override readonly retryable = false;
}

/** The classes that an answer's `code` stands for. */
export const ERRORS = [
  Unauthorized, Forbidden, NotFound, FileMissing, InvalidArgument, InvalidPath, PayloadTooLarge,
  MethodNotAllowed, CapabilityNotSupported, Conflict, SandboxExpired, SandboxTtlInfinite, SecretMissing,
  OutputGone, RangeNotSatisfiable, ImageNotFound, ImageDenied, ImageInvalid, ImagePlatform, ImageTooLarge,
  BuildFailed, RequestTimeout, QuotaExceeded, SandboxNotReady, DriverUnavailable, StorageFull,
  DatabaseUnavailable, RegistryUnavailable, ObjectStoreUnavailable, ObjectStoreRefused, ShipError, PortClosed,
  Timeout, InternalError,
] as const;

const BY_CODE = new Map<string, typeof BayError>(ERRORS.map((kind) => [kind.code, kind]));

/** The error of an answer `{"error": {…}}`; a plain BayError where its code is unknown. */
export function errorFromWire(status: number, body: unknown): BayError {
  const error = asObject(asObject(body)["error"]);
  const kind = BY_CODE.get(String(error["code"])) ?? BayError;
  const requestId = error["request_id"] ? String(error["request_id"]) : null;
  const message = String(error["message"] || `the server answered HTTP ${status}`);
  return new kind(message, { status, details: asObject(error["details"]), requestId });
}

function asObject(value: unknown): Record<string, unknown> {
  return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
}
