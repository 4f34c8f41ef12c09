// Streams packed and unpacked by the browser: "gzip", or "deflate" with zlib's head and sum.

const MOST_BYTES = 2 ** 29;

export async function unpacked(bytes, format) {
  const parts = [];
  let length = 0;
  const reader = new Blob([bytes]).stream().pipeThrough(new DecompressionStream(format)).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      length += value.length;
      if (length > MOST_BYTES) break;
      parts.push(value);
    }
  } catch {
    throw new Error("the file is damaged");
  }
  if (length > MOST_BYTES) {
    reader.cancel().catch(() => {});
    throw new Error(`more than ${MOST_BYTES / 2 ** 20} MiB of voxels; crop the volume first`);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

// A Blob of `parts`, one after the other, packed.
export function packed(parts, format) {
  return new Response(new Blob(parts).stream().pipeThrough(new CompressionStream(format))).blob();
}
