/** Why a message or a retry was not accepted. `code` is an error code of the protocol, or `closed`. */
export class Refusal extends Error {
  constructor(
    readonly code: string,
    message: string,
  ) {
    super(message);
  }
}
