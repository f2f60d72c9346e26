// Chunks that are what the launcher was built with, whoever serves them: the page checks the launcher, and the
// launcher its chunks.

/** A chunk's file beside the launcher, and the hash of what is in it. */
export interface Chunk {
  file: string;
  integrity: string;
}

/**
 * Load a module after its hash was found right. A browser that does not know how loads it all the same.
 *
 * @throws {Error} if the network fails, or the file is another one
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
