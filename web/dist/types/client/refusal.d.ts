/** Why a message or a retry was not accepted. `code` is an error code of the protocol, or `closed`. */
export declare class Refusal extends Error {
    readonly code: string;
    constructor(code: string, message: string);
}
