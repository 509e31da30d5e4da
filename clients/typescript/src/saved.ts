/** Brings what streams to where the caller wants it. */

/** Writes the pieces into a stream, and closes it; gives how many bytes. When either fails it is aborted. */
export async function saved(
  pieces: AsyncIterable<Uint8Array>,
  target: WritableStream<Uint8Array>,
): Promise<number> {
  const writer = target.getWriter();
  let size = 0;
  try {
    for await (const piece of pieces) {
      await writer.write(piece);
      size += piece.length;
    }
    await writer.close();
    return size;
  } catch (error) {
    await writer.abort(error).catch(() => undefined);
    throw error;
  }
}
