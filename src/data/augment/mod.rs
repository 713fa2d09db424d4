//! Random changes of training pictures, and the mixing of batches.
//!
//! [`Augmentation`] says what is done; [`Loader`](super::Loader) does it. Every draw comes from a generator of its own
//! for each picture (or batch), seeded with the loader's seed, the epoch and the picture's (the batch's) number, so
//! that nothing depends on threads or on what was loaded before.

mod colour;
mod geometry;
mod mix;
mod rand_augment;

use serde::{Deserialize, Serialize};

use super::picture::Picture;
use super::random::Random;
use crate::{Error, Result};
pub(super) use geometry::Canvas;
pub(super) use mix::targets;

/// What is done to training pictures at random; the default is nothing.
///
/// The steps come in the order of the fields, the first six on the 8-bit picture at the model's size, erasing and
/// mixing on normalised values. Whatever comes from outside the picture is black, except in `rand_augment`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Augmentation {
    /// Takes a random part of the picture as it is in the set, instead of all of it; for pictures larger than the
    /// model's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub random_resized_crop: Option<RandomResizedCrop>,
    /// Pixels of black added on each side, before a random crop back to the model's size; 0 is off. The usual value
    /// for CIFAR is 4 (He et al., arXiv:1512.03385; torchvision's `RandomCrop(size, padding=4)`).
    pub pad_crop: usize,
    /// A random rotation, shift, scaling and shear.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affine: Option<Affine>,
    /// Probability of mirroring left and right; 0 is off. Not for digits or letters (torchvision's
    /// `RandomHorizontalFlip`).
    pub flip: f64,
    /// A few operations drawn from a list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rand_augment: Option<RandAugment>,
    /// Random brightness, contrast, saturation and hue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub colour_jitter: Option<ColourJitter>,
    /// Random erasing of a part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub erasing: Option<Erasing>,
    /// Mixing of the batch's pictures and targets in pairs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mixing: Option<Mixing>,
}

/// A random part of a picture, resized to the model's size with a triangle filter as wide as the reduction (Szegedy
/// et al., arXiv:1409.4842; torchvision's `RandomResizedCrop` with bilinear interpolation and antialiasing).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RandomResizedCrop {
    /// The part's share of the picture's area, least and most; 0.08 to 1.
    pub scale: [f64; 2],
    /// The part's width to its height, least and most, uniform in its logarithm; 3/4 to 4/3.
    pub ratio: [f64; 2],
}

impl Default for RandomResizedCrop {
    fn default() -> Self {
        RandomResizedCrop { scale: [0.08, 1.0], ratio: [0.75, 4.0 / 3.0] }
    }
}

/// A random affine map around the middle, with bilinear interpolation (torchvision's `RandomAffine`). Without fields
/// it changes nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Affine {
    /// The largest rotation in either direction, in degrees.
    pub degrees: f64,
    /// The largest shift in each direction, as a fraction of the side; in whole pixels.
    pub translate: f64,
    /// The factors of size, least and most; above 1 enlarges.
    pub scale: [f64; 2],
    /// The largest shear parallel to x in either direction, in degrees.
    pub shear: f64,
}

impl Default for Affine {
    fn default() -> Self {
        Affine { degrees: 0.0, translate: 0.0, scale: [1.0; 2], shear: 0.0 }
    }
}

/// RandAugment (Cubuk et al., arXiv:1909.13719) as timm's `rand-m9-mstd0.5-inc1`, which is the default.
///
/// Operations are drawn with replacement from autocontrast, equalize, invert, rotate, posterize, solarize,
/// solarize_add, color, contrast, brightness, sharpness, shear and translation in x and y; a grey picture's list lacks
/// color. All grow stronger with the magnitude. Geometric ones interpolate bilinearly and fill with the mean colour.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RandAugment {
    /// How many operations are drawn for a picture; 2.
    pub ops: usize,
    /// Their strength, 0 to 10; 9.
    pub magnitude: f64,
    /// Standard deviation of each operation's magnitude, which stays in 0 to 10; 0.5.
    pub std: f64,
    /// Probability that an operation that was drawn is done; 0.5.
    pub probability: f64,
}

impl Default for RandAugment {
    fn default() -> Self {
        RandAugment { ops: 2, magnitude: 9.0, std: 0.5, probability: 0.5 }
    }
}

/// Random brightness, contrast, saturation and hue, in random order (torchvision's `ColorJitter`). Grey pictures have
/// the first two only. Without fields it changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ColourJitter {
    /// The factor of brightness is within this of 1, and at least 0.
    pub brightness: f64,
    /// The same for the distance to the picture's mean brightness.
    pub contrast: f64,
    /// The same for the distance to the pixel's own grey.
    pub saturation: f64,
    /// The largest turn of the hue in either direction, at most 0.5 of a full circle.
    pub hue: f64,
}

/// Random erasing (Zhong et al., arXiv:1708.04896; timm's `RandomErasing` with one part).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Erasing {
    /// Probability that a part of the picture is erased; 0.25.
    pub probability: f64,
    /// The part's share of the area, least and most; 0.02 to 1/3.
    pub area: [f64; 2],
    /// Its height to its width, least and most, uniform in its logarithm; 0.3 to 1/0.3.
    pub ratio: [f64; 2],
    /// What is put there.
    pub fill: Filling,
}

impl Default for Erasing {
    fn default() -> Self {
        Erasing { probability: 0.25, area: [0.02, 1.0 / 3.0], ratio: [0.3, 1.0 / 0.3], fill: Filling::Noise }
    }
}

/// What an erased part is filled with, as normalised values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filling {
    /// Normal noise of mean 0 and variance 1, of its own for each value (timm's `pixel`).
    #[default]
    Noise,
    /// 0, which is the mean colour (timm's `const`).
    Zero,
}

/// Mixup (Zhang et al., arXiv:1710.09412) and CutMix (Yun et al., arXiv:1905.04899), as timm's `Mixup` in batch mode.
///
/// A whole batch is mixed with one proportion, its first picture with its last and so on; the middle one of an odd
/// batch stays. The targets are mixed by the share of each picture that is left. With both alphas 0 it is off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mixing {
    /// Both parameters of the beta distribution of mixup's proportion; 0 is no mixup.
    pub mixup: f64,
    /// The same for the share of the area that CutMix keeps; 0 is no CutMix.
    pub cutmix: f64,
    /// Probability that a batch is mixed; 1.
    pub probability: f64,
    /// Probability of CutMix where both are on; 0.5.
    pub switch_probability: f64,
    /// For how many epochs from the first; 0 is all of them.
    pub epochs: u64,
}

impl Default for Mixing {
    fn default() -> Self {
        Mixing { mixup: 0.0, cutmix: 0.0, probability: 1.0, switch_probability: 0.5, epochs: 0 }
    }
}

impl Mixing {
    fn is_off(&self) -> bool {
        self.mixup == 0.0 && self.cutmix == 0.0
    }
}

/// An error unless a value is in a range of its key.
fn check(key: &str, value: f64, [low, high]: [f64; 2]) -> Result<()> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    Err(Error::config(format!("augmentation.{key}"), format!("is {value}; it must be {low} to {high}")))
}

/// An error unless a pair is a range in a range of its key.
fn check_range(key: &str, range: [f64; 2], allowed: [f64; 2]) -> Result<()> {
    range.iter().try_for_each(|&v| check(key, v, allowed))?;
    if range[0] <= range[1] {
        return Ok(());
    }
    let why = format!("is {range:?}; it must be the least and the most, in this order");
    Err(Error::config(format!("augmentation.{key}"), why))
}

impl Augmentation {
    /// Checks that every value makes sense.
    ///
    /// # Errors
    /// [`Error::Config`] that names the key, as `augmentation.flip` or `augmentation.erasing.area`.
    pub fn validate(&self) -> Result<()> {
        // Above any use, and far from any overflow.
        const RATIOS: [f64; 2] = [0.01, 100.0];
        const SHARE: [f64; 2] = [0.0, 1.0];
        if let Some(r) = &self.random_resized_crop {
            check_range("random_resized_crop.scale", r.scale, SHARE)?;
            check_range("random_resized_crop.ratio", r.ratio, RATIOS)?;
        }
        check("pad_crop", self.pad_crop as f64, [0.0, 4096.0])?;
        if let Some(a) = &self.affine {
            check("affine.degrees", a.degrees, [0.0, 180.0])?;
            check("affine.translate", a.translate, SHARE)?;
            check_range("affine.scale", a.scale, RATIOS)?;
            check("affine.shear", a.shear, [0.0, 80.0])?;
        }
        check("flip", self.flip, SHARE)?;
        if let Some(r) = &self.rand_augment {
            check("rand_augment.ops", r.ops as f64, [0.0, 100.0])?;
            check("rand_augment.magnitude", r.magnitude, [0.0, 10.0])?;
            check("rand_augment.std", r.std, [0.0, 100.0])?;
            check("rand_augment.probability", r.probability, SHARE)?;
        }
        if let Some(j) = &self.colour_jitter {
            check("colour_jitter.brightness", j.brightness, [0.0, 100.0])?;
            check("colour_jitter.contrast", j.contrast, [0.0, 100.0])?;
            check("colour_jitter.saturation", j.saturation, [0.0, 100.0])?;
            check("colour_jitter.hue", j.hue, [0.0, 0.5])?;
        }
        if let Some(e) = &self.erasing {
            check("erasing.probability", e.probability, SHARE)?;
            check_range("erasing.area", e.area, SHARE)?;
            check_range("erasing.ratio", e.ratio, RATIOS)?;
        }
        if let Some(m) = &self.mixing {
            check("mixing.mixup", m.mixup, [0.0, 1e6])?;
            check("mixing.cutmix", m.cutmix, [0.0, 1e6])?;
            check("mixing.probability", m.probability, SHARE)?;
            check("mixing.switch_probability", m.switch_probability, SHARE)?;
        }
        Ok(())
    }

    /// Puts a picture, of the canvas's channels, on the canvas and does the steps that come before normalisation. It
    /// is of the canvas's size unless `random_resized_crop` is on. `fill` is the mean colour.
    pub(super) fn draw(&self, picture: &Picture, canvas: &mut Canvas, fill: [u8; 3], random: &mut Random) {
        match &self.random_resized_crop {
            Some(r) => canvas.resized_crop(picture, r.scale, r.ratio, random),
            None => canvas.pixels.copy_from_slice(picture.pixels()),
        }
        if self.pad_crop > 0 {
            let [left, top] = std::array::from_fn(|_| random.below(2 * self.pad_crop + 1));
            canvas.pad_crop(self.pad_crop, left, top);
        }
        if let Some(a) = &self.affine {
            let degrees = random.around(a.degrees);
            let most = a.translate * canvas.side as f64;
            let shift = std::array::from_fn(|_| random.around(most).round());
            let (scale, shear) = (random.between(a.scale), random.around(a.shear));
            canvas.warp(geometry::affine(canvas.side, degrees, shift, scale, shear), [0; 3]);
        }
        if random.chance(self.flip) {
            canvas.flip();
        }
        if let Some(r) = &self.rand_augment {
            r.apply(canvas, fill, random);
        }
        if let Some(j) = &self.colour_jitter {
            j.apply(canvas, random);
        }
    }
}

impl ColourJitter {
    fn apply(&self, canvas: &mut Canvas, random: &mut Random) {
        let mut order = [0, 1, 2, 3];
        random.shuffle(&mut order);
        for step in order {
            let mut factor = |range: f64| random.between([(1.0 - range).max(0.0), 1.0 + range]) as f32;
            match step {
                0 if self.brightness > 0.0 => canvas.brightness(factor(self.brightness)),
                1 if self.contrast > 0.0 => canvas.contrast(factor(self.contrast)),
                2 if self.saturation > 0.0 => canvas.saturation(factor(self.saturation)),
                3 if self.hue > 0.0 => canvas.turn_hue(random.around(self.hue) as f32),
                _ => {}
            }
        }
    }
}

impl Erasing {
    /// Erases a part of a normalised picture, [side, side, channels].
    pub(super) fn apply(&self, pixels: &mut [f32], side: usize, random: &mut Random) {
        if !random.chance(self.probability) {
            return;
        }
        let channels = pixels.len() / (side * side);
        for _ in 0..10 {
            let area = (side * side) as f64 * random.between(self.area);
            let aspect = random.log_between(self.ratio);
            let [h, w] = [area * aspect, area / aspect].map(|v| v.sqrt().round() as usize);
            if h >= side || w >= side {
                continue;
            }
            let (top, left) = (random.below(side - h + 1), random.below(side - w + 1));
            for y in top..top + h {
                let row = &mut pixels[(y * side + left) * channels..][..w * channels];
                match self.fill {
                    Filling::Zero => row.fill(0.0),
                    Filling::Noise => row.chunks_mut(2).for_each(|pair| {
                        pair.iter_mut().zip(random.normals()).for_each(|(p, n)| *p = n as f32);
                    }),
                }
            }
            return;
        }
    }
}
