//! Changes of pixel values, as Pillow's `ImageOps` and `ImageEnhance` do them, and of hue, as torchvision does.

use super::super::picture::grey;
use super::geometry::Canvas;

/// A value `factor` of the way from `from` to `to`, or beyond; cut off as Pillow's `blend` does, not rounded.
fn blend(from: u8, to: u8, factor: f32) -> u8 {
    let (from, to) = (f32::from(from), f32::from(to));
    (from + factor * (to - from)) as u8
}

impl Canvas {
    fn map(&mut self, of: impl Fn(u8) -> u8) {
        let table: [u8; 256] = std::array::from_fn(|p| of(p as u8));
        self.pixels.iter_mut().for_each(|p| *p = table[usize::from(*p)]);
    }

    /// Maps each channel by a table made from its histogram.
    fn map_channels(&mut self, table: impl Fn(&[u32; 256]) -> [u8; 256]) {
        let channels = self.channels;
        for c in 0..channels {
            let mut counts = [0u32; 256];
            self.pixels[c..].iter().step_by(channels).for_each(|&p| counts[usize::from(p)] += 1);
            let table = table(&counts);
            self.pixels[c..].iter_mut().step_by(channels).for_each(|p| *p = table[usize::from(*p)]);
        }
    }

    pub(super) fn invert(&mut self) {
        self.map(|p| 255 - p);
    }

    /// Keeps the highest `bits` of each value, 0 to 8.
    pub(super) fn posterize(&mut self, bits: u32) {
        let mask = !(0xffu32 >> bits) as u8;
        self.map(|p| p & mask);
    }

    /// Inverts what is not below `threshold`, 0 to 256.
    pub(super) fn solarize(&mut self, threshold: u32) {
        self.map(|p| if u32::from(p) < threshold { p } else { 255 - p });
    }

    /// Adds to the darker half of the values.
    pub(super) fn solarize_add(&mut self, add: u8) {
        self.map(|p| if p < 128 { p.saturating_add(add) } else { p });
    }

    /// Stretches each channel to the whole range.
    pub(super) fn autocontrast(&mut self) {
        self.map_channels(|counts| {
            let low = counts.iter().position(|&n| n > 0).unwrap_or(0);
            let high = counts.iter().rposition(|&n| n > 0).unwrap_or(0);
            if low >= high {
                return std::array::from_fn(|p| p as u8);
            }
            std::array::from_fn(|p| ((p.clamp(low, high) - low) * 255 / (high - low)) as u8)
        });
    }

    /// Makes each channel's values equally frequent, as far as a table can.
    pub(super) fn equalize(&mut self) {
        self.map_channels(|counts| {
            let last = counts.iter().rposition(|&n| n > 0).map_or(0, |p| counts[p]);
            let step = (counts.iter().sum::<u32>() - last) / 255;
            if step == 0 {
                return std::array::from_fn(|p| p as u8);
            }
            let mut sum = step / 2;
            std::array::from_fn(|p| {
                let value = (sum / step).min(255) as u8;
                sum += counts[p];
                value
            })
        });
    }

    /// 0 is black, 1 the picture.
    pub(super) fn brightness(&mut self, factor: f32) {
        self.map(|p| blend(0, p, factor));
    }

    /// 0 is the picture's mean brightness, 1 the picture.
    pub(super) fn contrast(&mut self, factor: f32) {
        let sum: u64 = match self.channels {
            1 => self.pixels.iter().map(|&p| u64::from(p)).sum(),
            _ => self.pixels.chunks_exact(3).map(|p| u64::from(grey(p))).sum(),
        };
        let n = (self.side * self.side) as u64;
        let mean = ((2 * sum + n) / (2 * n)) as u8;
        self.map(|p| blend(mean, p, factor));
    }

    /// 0 is grey, 1 the picture. A grey picture stays.
    pub(super) fn saturation(&mut self, factor: f32) {
        if self.channels == 3 {
            for p in self.pixels.chunks_exact_mut(3) {
                let grey = grey(p);
                p.iter_mut().for_each(|p| *p = blend(grey, *p, factor));
            }
        }
    }

    /// 0 is smooth inside a border of one pixel, 1 the picture.
    pub(super) fn sharpness(&mut self, factor: f32) {
        self.begin();
        let (c, row) = (self.channels, self.side * self.channels);
        let before = &self.before;
        for y in 1..self.side.saturating_sub(1) {
            let [above, here, below] = [y - 1, y, y + 1].map(|y| &before[y * row..][..row]);
            let out = &mut self.pixels[y * row..][..row];
            for i in c..row - c {
                let sum = |r: &[u8]| u32::from(r[i - c]) + u32::from(r[i]) + u32::from(r[i + c]);
                let sum = sum(above) + sum(here) + sum(below) + 4 * u32::from(here[i]);
                out[i] = blend(((2 * sum + 13) / 26) as u8, here[i], factor);
            }
        }
    }

    /// Turns the hue by `turn` of a circle, -1 to 1. A grey picture stays.
    pub(super) fn turn_hue(&mut self, turn: f32) {
        if self.channels == 3 {
            for p in self.pixels.chunks_exact_mut(3) {
                let turned = turn_hue([p[0], p[1], p[2]], turn);
                p.copy_from_slice(&turned);
            }
        }
    }
}

/// A colour with its hue turned, its value and saturation kept.
fn turn_hue(rgb: [u8; 3], turn: f32) -> [u8; 3] {
    let [r, g, b] = rgb.map(f32::from);
    let (most, least) = (r.max(g).max(b), r.min(g).min(b));
    let range = most - least;
    if range == 0.0 {
        return rgb;
    }
    // In sixths of the circle.
    let hue = match () {
        _ if most == r => (g - b) / range,
        _ if most == g => (b - r) / range + 2.0,
        _ => (r - g) / range + 4.0,
    };
    let hue = hue + 6.0 * turn + 12.0;
    // How far each channel lies below the value: all of the range on a third of the circle, and nothing opposite.
    [5.0, 3.0, 1.0].map(|at: f32| {
        let k = (at + hue) % 6.0;
        (most - range * k.min(4.0 - k).clamp(0.0, 1.0) + 0.5) as u8
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(channels: usize, pixels: &[u8], change: impl Fn(&mut Canvas)) -> Vec<u8> {
        let side = (pixels.len() / channels).isqrt();
        let mut c = Canvas::new(side, channels);
        c.pixels = pixels.to_vec();
        change(&mut c);
        c.pixels
    }

    #[test]
    fn tables() {
        let p = [0, 100, 128, 255];
        assert_eq!(changed(1, &p, Canvas::invert), [255, 155, 127, 0]);
        assert_eq!(changed(1, &p, |c| c.posterize(8)), p);
        assert_eq!(changed(1, &p, |c| c.posterize(2)), [0, 64, 128, 192]);
        assert_eq!(changed(1, &p, |c| c.posterize(0)), [0; 4]);
        assert_eq!(changed(1, &p, |c| c.solarize(128)), [0, 100, 127, 0]);
        assert_eq!(changed(1, &p, |c| c.solarize(256)), p);
        assert_eq!(changed(1, &p, |c| c.solarize(0)), [255, 155, 127, 0]);
        assert_eq!(changed(1, &p, |c| c.solarize_add(110)), [110, 210, 128, 255]);
        assert_eq!(changed(1, &[50, 60, 70, 100], Canvas::autocontrast), [0, 51, 102, 255]);
        assert_eq!(changed(1, &[7; 4], Canvas::autocontrast), [7; 4]);
        // Channel by channel.
        let rgb = [10, 0, 9, 20, 255, 9, 10, 0, 9, 10, 0, 9];
        assert_eq!(changed(3, &rgb, Canvas::autocontrast), [0, 0, 9, 255, 255, 9, 0, 0, 9, 0, 0, 9]);
    }

    #[test]
    fn equalizes() {
        // 256 values once each: the step is 1, and value p has p values below it.
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(changed(1, &all, Canvas::equalize), all);
        // 1024 pixels: 512 of 10, 256 of 20, 256 of 30; the step is 768 / 255 = 3, halves begin at 1.
        let three: Vec<u8> = [[10; 256], [10; 256], [20; 256], [30; 256]].concat();
        let out = changed(1, &three, Canvas::equalize);
        assert_eq!([out[0], out[512], out[768]], [0, 171, 255]);
        // Too few pixels, or only one value: unchanged.
        assert_eq!(changed(1, &[1, 2, 3, 4], Canvas::equalize), [1, 2, 3, 4]);
        assert_eq!(changed(1, &[5; 1024], Canvas::equalize), [5; 1024]);
    }

    #[test]
    fn enhancements() {
        let p = [0, 101, 128, 255];
        assert_eq!(changed(1, &p, |c| c.brightness(0.5)), [0, 50, 64, 127]);
        assert_eq!(changed(1, &p, |c| c.brightness(1.9)), [0, 191, 243, 255]);
        // The mean is 121.
        assert_eq!(changed(1, &p, |c| c.contrast(0.0)), [121; 4]);
        assert_eq!(changed(1, &p, |c| c.contrast(2.0)), [0, 81, 135, 255]);
        assert_eq!(changed(1, &p, |c| c.saturation(0.0)), p);
        let rgb = [255, 0, 0].repeat(4);
        assert_eq!(changed(3, &rgb, |c| c.saturation(0.0)), [76; 12]);
        assert_eq!(changed(3, &rgb, |c| c.saturation(0.5)), [165, 38, 38].repeat(4));
        assert_eq!(changed(3, &rgb, |c| c.contrast(0.5)), [165, 38, 38].repeat(4));
        for keep in [Canvas::brightness, Canvas::contrast, Canvas::saturation, Canvas::sharpness] {
            assert_eq!(changed(1, &p, |c| keep(c, 1.0)), p);
            assert_eq!(changed(3, &rgb, |c| keep(c, 1.0)), rgb);
        }
    }

    #[test]
    fn sharpens_and_smooths() {
        let dot = [0, 0, 0, 0, 130, 0, 0, 0, 0];
        assert_eq!(changed(1, &dot, |c| c.sharpness(0.0)), [0, 0, 0, 0, 50, 0, 0, 0, 0]);
        assert_eq!(changed(1, &dot, |c| c.sharpness(1.5)), [0, 0, 0, 0, 170, 0, 0, 0, 0]);
        let rgb: Vec<u8> = dot.iter().flat_map(|&p| [p, 0, p]).collect();
        assert_eq!(changed(3, &rgb, |c| c.sharpness(0.0))[12..15], [50, 0, 50]);
        for side in 0..3usize {
            let small = vec![9; side * side];
            assert_eq!(changed(1, &small, |c| c.sharpness(0.1)), small);
        }
    }

    #[test]
    fn hues_turn() {
        assert_eq!(turn_hue([255, 0, 0], 1.0 / 3.0), [0, 255, 0]);
        assert_eq!(turn_hue([255, 0, 0], -1.0 / 3.0), [0, 0, 255]);
        assert_eq!(turn_hue([200, 100, 100], 0.5), [100, 200, 200]);
        assert_eq!(turn_hue([9, 9, 9], 0.3), [9, 9, 9]);
        for rgb in [[1, 2, 3], [255, 0, 1], [30, 200, 77], [0, 0, 255], [250, 250, 3]] {
            assert_eq!(turn_hue(rgb, 0.0), rgb);
            assert_eq!(turn_hue(rgb, 1.0), rgb);
            assert_eq!(turn_hue(turn_hue(rgb, 0.5), 0.5), rgb);
        }
        assert_eq!(changed(1, &[1, 2, 3, 4], |c| c.turn_hue(0.5)), [1, 2, 3, 4]);
    }
}
