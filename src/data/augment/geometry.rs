//! Moves of pixels: flips, crops and affine maps.

use super::super::picture::{Picture, resized};
use super::super::random::Random;

/// A square picture of 8 bits a channel, [side, side, channels], being augmented.
pub(in crate::data) struct Canvas {
    pub side: usize,
    /// 1 or 3.
    pub channels: usize,
    pub pixels: Vec<u8>,
    /// The pixels before the last move.
    pub(super) before: Vec<u8>,
}

/// A map from the points of the result to the points of the source, `x' = m[0] x + m[1] y + m[2]`, in pixels, the
/// middle of the first at (½, ½).
type Map = [f64; 6];

/// The map that is this linear one around the middle of a square, after a shift by (-`dx`, -`dy`).
fn around_middle(side: usize, [a, b, c, d]: [f64; 4], [dx, dy]: [f64; 2]) -> Map {
    let middle = side as f64 / 2.0;
    let (x, y) = (middle + dx, middle + dy);
    [a, b, middle - a * x - b * y, c, d, middle - c * x - d * y]
}

/// The map that turns a square counter-clockwise around its middle.
pub(super) fn rotation(side: usize, degrees: f64) -> Map {
    let (sin, cos) = libm::sincos(degrees.to_radians());
    around_middle(side, [cos, -sin, sin, cos], [0.0; 2])
}

/// The map of a rotation (clockwise, `degrees`) of what was sheared (parallel to x, `shear` degrees) and scaled
/// around the middle, and then shifted by `shift` pixels: torchvision's `affine`.
pub(super) fn affine(side: usize, degrees: f64, shift: [f64; 2], scale: f64, shear: f64) -> Map {
    let (sin, cos) = libm::sincos(degrees.to_radians());
    let tan = libm::tan(shear.to_radians());
    // Forward it is scale · [cos, -cos·tan - sin; sin, -sin·tan + cos], of determinant scale².
    let forward = [cos, -cos * tan - sin, sin, -sin * tan + cos];
    let inverse = [forward[3], -forward[1], -forward[2], forward[0]].map(|v| v / scale);
    around_middle(side, inverse, shift)
}

impl Canvas {
    /// A canvas of `side` × `side` pixels, black.
    pub fn new(side: usize, channels: usize) -> Self {
        Canvas { side, channels, pixels: vec![0; side * side * channels], before: Vec::new() }
    }

    /// Keeps the pixels as those before, to make new ones from.
    pub(super) fn begin(&mut self) {
        self.before.clear();
        self.before.extend_from_slice(&self.pixels);
    }

    /// Mirrors left and right.
    pub(super) fn flip(&mut self) {
        let c = self.channels;
        for row in self.pixels.chunks_exact_mut(self.side * c) {
            row.reverse();
            // Channels back in their order.
            row.chunks_exact_mut(c).for_each(<[u8]>::reverse);
        }
    }

    /// The part at (`left`, `top`) of the picture with `padding` zeros on all sides; both at most twice that.
    pub(super) fn pad_crop(&mut self, padding: usize, left: usize, top: usize) {
        self.begin();
        self.pixels.fill(0);
        let side = self.side;
        // In each direction, where the common part begins in the result and in the source, and how long it is.
        let part = |at: usize| {
            let (to, from) = (padding.saturating_sub(at), at.saturating_sub(padding));
            (to, from, side.saturating_sub(to.max(from)))
        };
        let ((x, from_x, width), (y, from_y, height)) = (part(left), part(top));
        if width == 0 {
            return;
        }
        let row = side * self.channels;
        let [x, from_x, width] = [x, from_x, width].map(|v| v * self.channels);
        for i in 0..height {
            let to = &mut self.pixels[(y + i) * row + x..][..width];
            to.copy_from_slice(&self.before[(from_y + i) * row + from_x..][..width]);
        }
    }

    /// Moves pixels by a map, with bilinear interpolation; what comes from outside is `fill`.
    pub(super) fn warp(&mut self, map: Map, fill: [u8; 3]) {
        self.begin();
        match self.channels {
            1 => warp::<1>(&self.before, &mut self.pixels, self.side, map, [fill[0]]),
            _ => warp::<3>(&self.before, &mut self.pixels, self.side, map, fill),
        }
    }

    /// Takes a random part of a picture of the same channels, of `scale` of its area and `ratio` width to height, and
    /// resizes it to the canvas; where ten draws do not fit in the picture, its middle.
    pub(super) fn resized_crop(&mut self, picture: &Picture, scale: [f64; 2], ratio: [f64; 2], random: &mut Random) {
        let (w, h) = (picture.width(), picture.height());
        let rect = crop_rect(w, h, scale, ratio, random);
        self.pixels = resized(picture.pixels(), w, h, self.channels, rect, [self.side; 2]);
    }
}

/// A part, [x, y, width, height], as torchvision's `RandomResizedCrop` chooses it.
fn crop_rect(w: usize, h: usize, scale: [f64; 2], ratio: [f64; 2], random: &mut Random) -> [usize; 4] {
    for _ in 0..10 {
        let area = (w * h) as f64 * random.between(scale);
        let aspect = random.log_between(ratio);
        let [cw, ch] = [area * aspect, area / aspect].map(|v| v.sqrt().round() as usize);
        if (1..=w).contains(&cw) && (1..=h).contains(&ch) {
            let y = random.below(h - ch + 1);
            return [random.below(w - cw + 1), y, cw, ch];
        }
    }
    let own = w as f64 / h as f64;
    let (cw, ch) = match () {
        _ if own < ratio[0] => (w, (w as f64 / ratio[0]).round() as usize),
        _ if own > ratio[1] => ((h as f64 * ratio[1]).round() as usize, h),
        _ => (w, h),
    };
    let (cw, ch) = (cw.clamp(1, w), ch.clamp(1, h));
    [(w - cw) / 2, (h - ch) / 2, cw, ch]
}

fn warp<const C: usize>(from: &[u8], to: &mut [u8], side: usize, map: Map, fill: [u8; C]) {
    let (from, _) = from.as_chunks::<C>();
    let (to, _) = to.as_chunks_mut::<C>();
    let map = map.map(|v| v as f32);
    let size = side as f32;
    for (y, row) in to.chunks_exact_mut(side).enumerate() {
        for (x, out) in row.iter_mut().enumerate() {
            let (px, py) = (x as f32 + 0.5, y as f32 + 0.5);
            let sx = map[0] * px + map[1] * py + map[2] - 0.5;
            let sy = map[3] * px + map[4] * py + map[5] - 0.5;
            // Neither holds of what is no number.
            if !(sx > -1.0 && sx < size && sy > -1.0 && sy < size) {
                *out = fill;
                continue;
            }
            let (x0, y0) = ((sx + 1.0) as usize, (sy + 1.0) as usize);
            let (fx, fy) = (sx + 1.0 - x0 as f32, sy + 1.0 - y0 as f32);
            // The pixel at (x - 1, y - 1), so that the one left of the first is at 0.
            let at = |x: usize, y: usize| {
                let inside = (1..=side).contains(&x) && (1..=side).contains(&y);
                if inside { from[(y - 1) * side + x - 1] } else { fill }.map(f32::from)
            };
            let corners = [at(x0, y0), at(x0 + 1, y0), at(x0, y0 + 1), at(x0 + 1, y0 + 1)];
            for (c, out) in out.iter_mut().enumerate() {
                let [a, b, c, d] = corners.map(|p| p[c]);
                let (top, bottom) = (a + (b - a) * fx, c + (d - c) * fx);
                *out = (top + (bottom - top) * fy + 0.5) as u8;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canvas(side: usize, channels: usize) -> Canvas {
        let mut c = Canvas::new(side, channels);
        c.pixels.iter_mut().zip(1..).for_each(|(p, i)| *p = i);
        c
    }

    #[test]
    fn flips_and_crops() {
        let mut c = canvas(2, 3);
        c.flip();
        assert_eq!(c.pixels, [4, 5, 6, 1, 2, 3, 10, 11, 12, 7, 8, 9]);
        let cropped = |padding, left, top| {
            let mut c = canvas(3, 1);
            c.pad_crop(padding, left, top);
            c.pixels
        };
        assert_eq!(cropped(1, 1, 1), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(cropped(1, 0, 0), [0, 0, 0, 0, 1, 2, 0, 4, 5]);
        assert_eq!(cropped(1, 2, 1), [2, 3, 0, 5, 6, 0, 8, 9, 0]);
        assert_eq!(cropped(2, 2, 4), [7, 8, 9, 0, 0, 0, 0, 0, 0]);
        for (left, top) in (0..=10).flat_map(|l| (0..=10).map(move |t| (l, t))) {
            let (dx, dy) = (left as isize - 5, top as isize - 5);
            for (i, &p) in cropped(5, left, top).iter().enumerate() {
                let (x, y) = ((i % 3) as isize + dx, (i / 3) as isize + dy);
                let inside = (0..3).contains(&x) && (0..3).contains(&y);
                assert_eq!(p, if inside { (y * 3 + x + 1) as u8 } else { 0 });
            }
        }
    }

    #[test]
    fn warps() {
        let warped = |map: fn(usize) -> Map| {
            let mut c = canvas(3, 1);
            c.warp(map(3), [99; 3]);
            c.pixels
        };
        let same = [1, 2, 3, 4, 5, 6, 7, 8, 9];
        assert_eq!(warped(|s| rotation(s, 0.0)), same);
        assert_eq!(warped(|s| affine(s, 0.0, [0.0; 2], 1.0, 0.0)), same);
        assert_eq!(warped(|s| rotation(s, 90.0)), [3, 6, 9, 2, 5, 8, 1, 4, 7]);
        assert_eq!(warped(|s| affine(s, 90.0, [0.0; 2], 1.0, 0.0)), [7, 4, 1, 8, 5, 2, 9, 6, 3]);
        assert_eq!(warped(|s| affine(s, 0.0, [1.0, 0.0], 1.0, 0.0)), [99, 1, 2, 99, 4, 5, 99, 7, 8]);
        assert_eq!(warped(|s| affine(s, 0.0, [0.0, -1.0], 1.0, 0.0)), [4, 5, 6, 7, 8, 9, 99, 99, 99]);
        // Half a pixel: the mean of two neighbours.
        assert_eq!(warped(|_| [1.0, 0.0, 0.5, 0.0, 1.0, 0.0]), [2, 3, 51, 5, 6, 53, 8, 9, 54]);
        // Scaled up by 3, the middle pixel's surroundings remain.
        assert_eq!(warped(|s| affine(s, 0.0, [0.0; 2], 3.0, 0.0)), [4, 4, 4, 5, 5, 5, 6, 6, 6]);
        // Sheared by 45 degrees: the upper row moves right, the lower left.
        assert_eq!(warped(|s| affine(s, 0.0, [0.0; 2], 1.0, 45.0)), [99, 1, 2, 4, 5, 6, 8, 9, 99]);
        assert_eq!(warped(|_| [f64::NAN; 6]), [99; 9]);
        assert_eq!(warped(|_| [1e30, 0.0, 0.0, 0.0, -1e30, 0.0]), [99; 9]);
        let mut c = canvas(2, 3);
        c.warp([1.0, 0.0, 1.0, 0.0, 1.0, 0.0], [20, 30, 40]);
        assert_eq!(c.pixels, [4, 5, 6, 20, 30, 40, 10, 11, 12, 20, 30, 40]);
    }

    #[test]
    fn parts_lie_inside() {
        let mut random = Random::of([0; 4]);
        for (w, h) in [(1, 1), (1, 500), (16_384, 1), (30, 20), (500, 375)] {
            for _ in 0..200 {
                let [x, y, cw, ch] = crop_rect(w, h, [0.08, 1.0], [0.75, 4.0 / 3.0], &mut random);
                assert!(cw > 0 && ch > 0 && x + cw <= w && y + ch <= h);
            }
        }
        assert_eq!(crop_rect(30, 20, [1.0, 1.0], [1.5, 1.5], &mut random), [0, 0, 30, 20]);
        assert_eq!(crop_rect(100, 10, [1.0, 1.0], [0.5, 2.0], &mut random), [40, 0, 20, 10]);
        let mut c = Canvas::new(4, 1);
        c.resized_crop(&Picture::new(8, 8, 1, vec![77; 64]).unwrap(), [0.1, 1.0], [0.7, 1.3], &mut random);
        assert_eq!(c.pixels, [77; 16]);
    }
}
