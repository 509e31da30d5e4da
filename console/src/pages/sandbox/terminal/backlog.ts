/** Output that came and is not shown yet. A browser takes all that is sent, so this says when it is too much. */

export interface Piece {
  data: Uint8Array;
  /** The offset of the byte behind it. */
  next: number;
}

export class Backlog {
  private readonly pieces: Piece[] = [];
  private held = 0;
  private over = false;
  private error: unknown = null;
  private wake = (): void => undefined;

  /** `most` bytes are held; more are refused. */
  constructor(private readonly most: number) {}

  get bytes(): number {
    return this.held;
  }

  /** Whether it was taken. One that is refused is not held: begin again at its offset, once the others are shown. */
  put(piece: Piece): boolean {
    if (this.held > 0 && this.held + piece.data.length > this.most) return false;
    this.pieces.push(piece);
    this.held += piece.data.length;
    this.wake();
    return true;
  }

  /** Nothing more comes; with an error, that one is thrown once all is taken. */
  end(error: unknown = null): void {
    this.over = true;
    this.error = error;
    this.wake();
  }

  /** The next piece, null at the end. For one reader. */
  async take(): Promise<Piece | null> {
    for (;;) {
      const piece = this.pieces.shift();
      if (piece) {
        this.held -= piece.data.length;
        return piece;
      }
      if (this.over) {
        if (this.error !== null) throw this.error;
        return null;
      }
      await new Promise<void>((resolve) => {
        this.wake = resolve;
      });
    }
  }
}
