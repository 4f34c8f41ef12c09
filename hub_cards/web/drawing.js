// Masks over images: a contour of every class that is shown, and a fill.

const CONTOUR = 250; // a contour is as thick as this part of the longer side

// Draws 8-bit RGB `pixels`, with the classes of `mask` for which `shown[index]`, and returns nothing.
export function draw(canvas, { width, height, pixels, mask, colours, shown, opacity }) {
  const image = new ImageData(width, height);
  const { data } = image;
  for (let from = 0, to = 0; from < pixels.length; from += 3, to += 4) {
    data[to] = pixels[from];
    data[to + 1] = pixels[from + 1];
    data[to + 2] = pixels[from + 2];
    data[to + 3] = 255;
  }
  if (mask) {
    const border = borders(mask, width, height, Math.max(1, Math.round(Math.max(width, height) / CONTOUR)));
    for (let i = 0; i < mask.length; i++) {
      if (!shown[mask[i]]) continue;
      const share = border[i] ? 1 : opacity;
      colours[mask[i]].forEach((value, channel) => {
        data[4 * i + channel] += (value - data[4 * i + channel]) * share;
      });
    }
  }
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// 1 for pixels of a mask from which another class is at most `thickness` away, straight or diagonally.
function borders(mask, width, height, thickness) {
  const found = new Uint8Array(mask.length);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const i = y * width + x;
      const right = x + 1 < width && mask[i] !== mask[i + 1];
      const below = y + 1 < height && mask[i] !== mask[i + width];
      if (right || below) mark(x, y, right, below);
    }
  }
  return found;

  // Both sides of an edge are marked; the drawing leaves out what is not shown, so a contour lies inside its class.
  function mark(x, y, right, below) {
    const reach = thickness - 1;
    const [lastX, lastY] = [x + reach + (right ? 1 : 0), y + reach + (below ? 1 : 0)];
    for (let v = Math.max(0, y - reach); v <= Math.min(height - 1, lastY); v++) {
      found.fill(1, v * width + Math.max(0, x - reach), v * width + Math.min(width - 1, lastX) + 1);
    }
  }
}
