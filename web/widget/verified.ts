// Loads chunks with subresource integrity: the page pins the launcher, and the launcher pins its chunks.

/** File name of a chunk, and the hash of its content. */
export interface Chunk {
  file: string;
  integrity: string;
}

/**
 * Load a module after checking its hash. A browser without support for `modulepreload` skips the check.
 *
 * @throws {Error} if the network fails, or the hash differs
 */
export async function load<Module>(chunk: Chunk, folder: string, nonce?: string): Promise<Module> {
  const address = new URL(chunk.file, folder).href;
  const link = document.createElement("link");
  if (link.relList?.supports?.("modulepreload")) {
    link.rel = "modulepreload";
    link.href = address;
    link.integrity = chunk.integrity;
    link.crossOrigin = "anonymous";
    if (nonce) link.nonce = nonce;
    await new Promise<void>((resolve, reject) => {
      link.onload = () => resolve();
      link.onerror = () => reject(new Error(`${address} could not be loaded`));
      document.head.append(link);
    }).finally(() => link.remove());
  }
  return import(address) as Promise<Module>;
}
