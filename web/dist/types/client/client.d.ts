import type { Client, Options } from "./types.js";
export { Refusal } from "./refusal.js";
export type * from "./types.js";
/** Return a client of this gateway: the same one for equal `url`, `token` and `getToken`, unless `shared` is false. */
export declare function connect(options: Options): Client;
