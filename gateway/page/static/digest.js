// The SHA-256 of a file, piece by piece, in a thread of its own.
const PIECE = 4 * 1024 * 1024;

onmessage = async ({ data: { file, library } }) => {
  importScripts(library);
  const hash = self.sha256.create();
  try {
    for (let at = 0; at < file.size; at += PIECE) {
      hash.update(await file.slice(at, at + PIECE).arrayBuffer());
    }
    postMessage(hash.hex());
  } catch {
    // The file was changed or taken away.
    postMessage(null);
  }
};
