//! The operations of RandAugment, and their strengths.

use super::super::random::Random;
use super::RandAugment;
use super::geometry::{Canvas, rotation};

/// An operation of the list. Color comes last, so that a grey picture's list is the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Autocontrast,
    Equalize,
    Invert,
    Rotate,
    Posterize,
    Solarize,
    SolarizeAdd,
    Contrast,
    Brightness,
    Sharpness,
    ShearX,
    ShearY,
    TranslateX,
    TranslateY,
    Color,
}

impl Op {
    const ALL: [Op; 15] = [
        Op::Autocontrast,
        Op::Equalize,
        Op::Invert,
        Op::Rotate,
        Op::Posterize,
        Op::Solarize,
        Op::SolarizeAdd,
        Op::Contrast,
        Op::Brightness,
        Op::Sharpness,
        Op::ShearX,
        Op::ShearY,
        Op::TranslateX,
        Op::TranslateY,
        Op::Color,
    ];

    /// Does the operation at a strength of 0 to 1, in the direction `sign` (1 or -1) where it has one.
    fn apply(self, canvas: &mut Canvas, strength: f64, sign: f64, fill: [u8; 3]) {
        let enhanced = (1.0 + sign * 0.9 * strength).max(0.1) as f32;
        let shear = sign * 0.3 * strength;
        let shift = sign * 0.45 * strength * canvas.side as f64;
        match self {
            Op::Autocontrast => canvas.autocontrast(),
            Op::Equalize => canvas.equalize(),
            Op::Invert => canvas.invert(),
            Op::Rotate => canvas.warp(rotation(canvas.side, sign * 30.0 * strength), fill),
            Op::Posterize => canvas.posterize(4 - (4.0 * strength) as u32),
            Op::Solarize => canvas.solarize(256 - (256.0 * strength) as u32),
            Op::SolarizeAdd => canvas.solarize_add((110.0 * strength) as u8),
            Op::Contrast => canvas.contrast(enhanced),
            Op::Brightness => canvas.brightness(enhanced),
            Op::Sharpness => canvas.sharpness(enhanced),
            Op::Color => canvas.saturation(enhanced),
            // From the upper left corner, as in Pillow.
            Op::ShearX => canvas.warp([1.0, shear, 0.0, 0.0, 1.0, 0.0], fill),
            Op::ShearY => canvas.warp([1.0, 0.0, 0.0, shear, 1.0, 0.0], fill),
            Op::TranslateX => canvas.warp([1.0, 0.0, shift, 0.0, 1.0, 0.0], fill),
            Op::TranslateY => canvas.warp([1.0, 0.0, 0.0, 0.0, 1.0, shift], fill),
        }
    }
}

impl RandAugment {
    pub(super) fn apply(&self, canvas: &mut Canvas, fill: [u8; 3], random: &mut Random) {
        let ops = if canvas.channels == 1 { &Op::ALL[..14] } else { &Op::ALL };
        for _ in 0..self.ops {
            let op = ops[random.below(ops.len())];
            if random.chance(self.probability) {
                let magnitude = self.magnitude + self.std * random.normals()[0];
                let sign = if random.chance(0.5) { -1.0 } else { 1.0 };
                op.apply(canvas, magnitude.clamp(0.0, 10.0) / 10.0, sign, fill);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILL: [u8; 3] = [90, 91, 92];

    fn applied(op: Op, channels: usize, pixels: &[u8], strength: f64, sign: f64) -> Vec<u8> {
        let mut c = Canvas::new((pixels.len() / channels).isqrt(), channels);
        c.pixels = pixels.to_vec();
        op.apply(&mut c, strength, sign, FILL);
        c.pixels
    }

    #[test]
    fn strengths_are_timms() {
        let p = [10, 100, 130, 250];
        let at = |op, strength, sign| applied(op, 1, &p, strength, sign);
        assert_eq!(at(Op::Autocontrast, 0.0, 1.0), [0, 95, 127, 255]);
        assert_eq!(at(Op::Equalize, 0.0, 1.0), p);
        assert_eq!(at(Op::Invert, 0.0, 1.0), [245, 155, 125, 5]);
        // 4, 1 and 0 bits.
        assert_eq!(at(Op::Posterize, 0.0, 1.0), [0, 96, 128, 240]);
        assert_eq!(at(Op::Posterize, 0.9, 1.0), [0, 0, 128, 128]);
        assert_eq!(at(Op::Posterize, 1.0, 1.0), [0; 4]);
        // From 256, 26 (256 - int(230.4)) and 0.
        assert_eq!(at(Op::Solarize, 0.0, 1.0), p);
        assert_eq!(at(Op::Solarize, 0.9, 1.0), [10, 155, 125, 5]);
        assert_eq!(at(Op::Solarize, 1.0, 1.0), [245, 155, 125, 5]);
        assert_eq!(at(Op::SolarizeAdd, 0.9, 1.0), [109, 199, 130, 250]);
        // Factors 1.9, 0.1 and 1.45; the mean is 122.5, rounded up.
        assert_eq!(at(Op::Brightness, 1.0, 1.0), [19, 190, 247, 255]);
        assert_eq!(at(Op::Brightness, 1.0, -1.0), [1, 10, 13, 25]);
        assert_eq!(at(Op::Contrast, 0.5, 1.0), [0, 89, 133, 255]);
        assert_eq!(at(Op::Contrast, 0.5, -1.0), [60, 110, 126, 192]);
        assert_eq!(at(Op::Sharpness, 1.0, 1.0), p);
        assert_eq!(applied(Op::Color, 3, &[200, 100, 0].repeat(4), 1.0, -1.0), [126, 116, 106].repeat(4));
    }

    #[test]
    fn moves_are_timms() {
        let p: Vec<u8> = (1..=100).collect();
        let at = |op, strength, sign| applied(op, 1, &p, strength, sign);
        for op in [Op::Rotate, Op::ShearX, Op::ShearY, Op::TranslateX, Op::TranslateY] {
            assert_eq!(at(op, 0.0, 1.0), p);
        }
        // 4.5 pixels: the source lies to the right of the result.
        assert_eq!(at(Op::TranslateX, 1.0, 1.0)[..10], [6, 7, 8, 9, 10, 50, 90, 90, 90, 90]);
        assert_eq!(at(Op::TranslateX, 1.0, -1.0)[..10], [90, 90, 90, 90, 46, 2, 3, 4, 5, 6]);
        let down = at(Op::TranslateY, 1.0, 1.0);
        assert_eq!((down[0], down[40], down[50], down[60]), (46, 86, 91, 90));
        // By 0.3 of the distance from the upper edge: 0.15 pixels in the first row, 2.85 in the last.
        let sheared = at(Op::ShearX, 1.0, 1.0);
        assert_eq!((sheared[0], sheared[9], sheared[90], sheared[99]), (1, 22, 94, 90));
        assert_eq!(at(Op::ShearY, 2.0 / 3.0, 1.0)[..2], [2, 5]);
        // Counter-clockwise by 30 degrees: the upper middle comes from the right.
        let turned = at(Op::Rotate, 1.0, 1.0);
        assert_eq!((turned[0], turned[99]), (90, 90));
        assert!(turned[5] % 10 > 6 && turned[5] < 20, "{turned:?}");
        let rgb = applied(Op::TranslateX, 3, &[7; 12], 1.0, 1.0);
        assert_eq!((&rgb[..3], &rgb[3..6]), (&[7; 3][..], &[82, 83, 84][..]));
    }

    #[test]
    fn grey_pictures_have_no_colour() {
        assert_eq!(Op::ALL.iter().position(|&op| op == Op::Color), Some(14));
        let mut canvas = Canvas::new(8, 1);
        let all = RandAugment { ops: 100, probability: 1.0, ..Default::default() };
        all.apply(&mut canvas, FILL, &mut Random::of([0; 4]));
        assert_eq!(canvas.pixels.len(), 64);
        let never = RandAugment { probability: 0.0, ..all };
        canvas.pixels.fill(3);
        never.apply(&mut canvas, FILL, &mut Random::of([0; 4]));
        assert_eq!(canvas.pixels, [3; 64]);
    }
}
