//! Turning pictures into model input.

use image::imageops::{self, FilterType};
use image::{ImageBuffer, Luma, Pixel, Rgb};

use crate::config::Config;
use crate::{Error, Result};

/// The least difference between a drawing's background and its strongest ink, of 255.
const MIN_CONTRAST: u8 = 48;

/// A decoded picture: 8 bits a channel, grey or RGB, rows from top to bottom, channels interleaved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    channels: usize,
    pixels: Vec<u8>,
}

impl Picture {
    /// A picture from `pixels` laid out [height, width, channels], with 1 (grey) or 3 (RGB) `channels`.
    ///
    /// # Errors
    /// [`Error::Input`] if a side is 0, `channels` is another number, or the count of `pixels` does not fit.
    pub fn new(width: usize, height: usize, channels: usize, pixels: Vec<u8>) -> Result<Self> {
        let expected = width.checked_mul(height).and_then(|n| n.checked_mul(channels));
        if width == 0 || height == 0 || !matches!(channels, 1 | 3) || expected != Some(pixels.len()) {
            return Err(Error::Input(format!(
                "{} bytes are not a {width}×{height} picture of {channels} channels; give width × height × channels \
                 bytes, with 1 or 3 channels",
                pixels.len()
            )));
        }
        Ok(Picture { width, height, channels, pixels })
    }

    /// A picture from `pixels` laid out [height, width, 4], red, green, blue and alpha, as a browser's canvas gives them: RGB,
    /// with transparency put on white or black as of a file.
    ///
    /// # Errors
    /// [`Error::Input`] if a side is 0 or the count of `pixels` does not fit.
    pub fn from_rgba(width: usize, height: usize, pixels: Vec<u8>) -> Result<Self> {
        let expected = width.checked_mul(height).and_then(|n| n.checked_mul(4));
        if expected != Some(pixels.len()) {
            let n = pixels.len();
            return Err(Error::Input(format!(
                "{n} bytes are not a {width}×{height} picture of red, green, blue and alpha; give width × height × 4 bytes"
            )));
        }
        Picture::new(width, height, 3, flatten::<3>(pixels))
    }

    /// Width in pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// 1 for grey, 3 for RGB.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// The pixels, [height, width, channels].
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The same picture with `channels` of 1 or 3. RGB turns grey by ITU-R 601 weights, rounded as Pillow does.
    fn with_channels(&self, channels: usize) -> Vec<u8> {
        match (self.channels, channels) {
            (1, 3) => self.pixels.iter().flat_map(|&p| [p; 3]).collect(),
            (3, 1) => self.pixels.chunks_exact(3).map(grey).collect(),
            _ => self.pixels.clone(),
        }
    }
}

/// The brightness of red, green and blue by ITU-R 601 weights, rounded as Pillow does.
pub(super) fn grey(p: &[u8]) -> u8 {
    ((u32::from(p[0]) * 19_595 + u32::from(p[1]) * 38_470 + u32::from(p[2]) * 7_471 + 0x8000) >> 16) as u8
}

/// Puts pixels of `C` colour channels and alpha on white, or on black if they are nearly white themselves.
pub(super) fn flatten<const C: usize>(pixels: Vec<u8>) -> Vec<u8> {
    let (mut light, mut weight) = (0u64, 0u64);
    for p in pixels.chunks_exact(C + 1) {
        light += p[..C].iter().map(|&c| u64::from(c)).sum::<u64>() * u64::from(p[C]);
        weight += u64::from(p[C]) * C as u64;
    }
    let ground: u32 = if weight > 0 && light / weight > 223 { 0 } else { 255 };
    pixels
        .chunks_exact(C + 1)
        .flat_map(|p| {
            let a = u32::from(p[C]);
            (0..C).map(move |c| ((u32::from(p[c]) * a + ground * (255 - a) + 127) / 255) as u8)
        })
        .collect()
}

/// Whether pictures are turned into their negative before they meet the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Invert {
    /// For a digit model (see [`Fit::Auto`]) and a single picture file: if its border is light. Otherwise no.
    #[default]
    Auto,
    /// Always.
    Yes,
    /// Never.
    No,
}

/// How a picture of another size than the model's is made to fit; one of the model's size is left alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fit {
    /// [`Fit::Digit`] for a digit model, [`Fit::Crop`] for any other. A digit model is one of 1 input channel whose
    /// first ten classes are named `0` to `9` or `zero` to `nine`, or which has ten without names.
    #[default]
    Auto,
    /// The central square, resized with a triangle filter as wide as the reduction.
    Crop,
    /// As MNIST's digits were made: the ink's bounding box, scaled so that its longer side is 20/28 of the model's,
    /// and placed so that its centre of mass is in the middle. Without even ground or visible ink, as [`Fit::Crop`].
    Digit,
}

/// How pictures become a model's input: its size, channels and normalisation, see [`Preparation::prepare`].
#[derive(Clone, Debug)]
pub struct Preparation {
    img_size: usize,
    in_chans: usize,
    /// For each channel the input value of each of the 256 pixel values.
    values: Vec<[f32; 256]>,
    invert: Invert,
    fit: Fit,
    pub(super) num_classes: usize,
    pub(super) class_names: Option<Vec<String>>,
    /// Whether class folders may be others than the model's classes.
    pub(super) any_classes: bool,
}

impl Preparation {
    /// The preparation a model of this configuration needs; a missing mean is 0, a missing std 1.
    ///
    /// # Errors
    /// [`Error::Config`] if `in_chans` is not 1 or 3, `img_size` is 0 or above 4096, or `mean` or `std` do not hold
    /// one finite number per channel (`std` one above 0).
    pub fn new(config: &Config, invert: Invert) -> Result<Self> {
        let channels = config.in_chans;
        if !matches!(channels, 1 | 3) {
            let why = format!("is {channels}, but pictures have 1 channel (grey) or 3 (RGB); feed this model arrays");
            return Err(Error::config("in_chans", why));
        }
        if config.img_size == 0 || config.img_size > 4096 {
            return Err(Error::config("img_size", format!("is {}; it must be 1 to 4096", config.img_size)));
        }
        let per_channel = |key: &str, given: &Option<Vec<f32>>, missing: f32, ok: fn(f32) -> bool, rule: &str| {
            let v = given.clone().unwrap_or_else(|| vec![missing; channels]);
            if v.len() == channels && v.iter().all(|&x| x.is_finite() && ok(x)) {
                return Ok(v);
            }
            Err(Error::config(key, format!("is {v:?}; it must hold {channels} numbers{rule}, one per input channel")))
        };
        let mean = per_channel("mean", &config.mean, 0.0, |_| true, "")?;
        let std = per_channel("std", &config.std, 1.0, |x| x > 0.0, " above 0")?;
        let value = |p: usize, c: usize| (p as f32 / 255.0 - mean[c]) / std[c];
        let values = (0..channels).map(|c| std::array::from_fn(|p| value(p, c))).collect();
        Ok(Preparation {
            img_size: config.img_size,
            in_chans: channels,
            values,
            invert,
            fit: Fit::Auto,
            num_classes: config.num_classes,
            class_names: config.class_names.clone(),
            any_classes: false,
        })
    }

    /// The same for a set whose class folders may be others, and more or fewer, than the model's classes: a model that is yet
    /// to be trained takes theirs.
    pub fn with_any_classes(mut self) -> Self {
        self.any_classes = true;
        self
    }

    /// The same with another way of fitting pictures; [`Preparation::new`] gives [`Fit::Auto`].
    pub fn with_fit(mut self, fit: Fit) -> Self {
        self.fit = fit;
        self
    }

    /// The same for pictures of a ready-made data set, which are all alike: nothing is inverted unless asked for.
    #[cfg(all(feature = "data", not(target_arch = "wasm32")))]
    pub(super) fn for_ready_made_set(mut self) -> Self {
        if self.invert == Invert::Auto {
            self.invert = Invert::No;
        }
        self
    }

    /// Shape of a prepared picture, [C, H, W].
    pub fn shape(&self) -> [usize; 3] {
        [self.in_chans, self.img_size, self.img_size]
    }

    /// The model's input for a picture, [C, H, W]: each value is (pixel/255 - mean)/std in f32.
    ///
    /// A picture of the model's size keeps every pixel; any other is made to fit as [`Fit`] says. Then an RGB model
    /// gets a grey picture three times, a grey model an RGB picture's brightness (ITU-R 601). [`Invert::Auto`] takes
    /// a drawing for dark on light if the median of its border, a fourteenth of the shorter side wide, is above 127.
    pub fn prepare(&self, picture: &Picture) -> Vec<f32> {
        let mut out = vec![0.0; self.in_chans * self.img_size * self.img_size];
        self.prepare_into(picture, &mut out);
        out
    }

    /// [`Preparation::prepare`] into a buffer of C·H·W values.
    pub(super) fn prepare_into(&self, picture: &Picture, out: &mut [f32]) {
        let picture = self.fitted(picture);
        for ((plane, values), c) in out.chunks_exact_mut(self.img_size * self.img_size).zip(&self.values).zip(0..) {
            for (o, p) in plane.iter_mut().zip(picture.pixels.chunks_exact(self.in_chans)) {
                *o = values[usize::from(p[c])];
            }
        }
    }

    /// The model's input for pixels at its size and channels, both [H, W, C].
    #[cfg(all(feature = "data", not(target_arch = "wasm32")))]
    pub(super) fn normalise(&self, pixels: &[u8], out: &mut [f32]) {
        for (out, pixel) in out.chunks_exact_mut(self.in_chans).zip(pixels.chunks_exact(self.in_chans)) {
            for ((o, &p), values) in out.iter_mut().zip(pixel).zip(&self.values) {
                *o = values[usize::from(p)];
            }
        }
    }

    /// The pixel value of each channel that comes nearest to 0 in the model's input; black for a channel there is not.
    #[cfg(all(feature = "data", not(target_arch = "wasm32")))]
    pub(super) fn mean_colour(&self) -> [u8; 3] {
        let nearest = |values: &[f32; 256]| {
            (0..=255u8).min_by(|&a, &b| {
                let distance = |p: u8| values[usize::from(p)].abs();
                distance(a).total_cmp(&distance(b))
            })
        };
        std::array::from_fn(|c| self.values.get(c).and_then(nearest).unwrap_or(0))
    }

    fn is_digit_model(&self) -> bool {
        self.in_chans == 1
            && match &self.class_names {
                Some(names) => names.len() >= 10 && names.iter().take(10).all(|n| is_digit(n)),
                None => self.num_classes == 10,
            }
    }

    /// The picture with the model's channels, and inverted if it has to be.
    pub(super) fn converted(&self, picture: &Picture) -> Picture {
        let (width, height, channels) = (picture.width, picture.height, self.in_chans);
        let mut pixels = picture.with_channels(channels);
        let invert = match self.invert {
            Invert::Auto => self.is_digit_model() && border(&pixels, width, height).median > 127,
            Invert::Yes => true,
            Invert::No => false,
        };
        if invert {
            pixels.iter_mut().for_each(|p| *p = 255 - *p);
        }
        Picture { width, height, channels, pixels }
    }

    /// The picture at the model's size and channels.
    pub(super) fn fitted(&self, picture: &Picture) -> Picture {
        let size = self.img_size;
        let converted = self.converted(picture);
        let Picture { width: w, height: h, channels, ref pixels } = converted;
        if (w, h) == (size, size) {
            return converted;
        }
        let at_size = |pixels| Picture { width: size, height: size, channels, pixels };
        let as_digit = self.fit == Fit::Digit || self.fit == Fit::Auto && self.is_digit_model();
        if as_digit
            && channels == 1
            && let Some(digit) = fit_digit(pixels, w, h, size)
        {
            return at_size(digit);
        }
        // Cropping before resizing bounds the work for a picture of extreme proportions.
        let side = w.min(h);
        let rect = [(w - side) / 2, (h - side) / 2, side, side];
        at_size(resized(pixels, w, h, channels, rect, [size; 2]))
    }
}

/// Whether a class name is a digit's.
pub(super) fn is_digit(name: &str) -> bool {
    const WORDS: [&str; 10] = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];
    matches!(name.as_bytes(), [b'0'..=b'9']) || WORDS.iter().any(|w| w.eq_ignore_ascii_case(name))
}

/// The part `rect` ([x, y, width, height]) of a w×h picture of 1 or 3 channels at the size `to` ([width, height]),
/// averaged where it shrinks.
pub(super) fn resized(pixels: &[u8], w: usize, h: usize, channels: usize, rect: [usize; 4], to: [usize; 2]) -> Vec<u8> {
    match channels {
        1 => resize::<Luma<u8>>(pixels, w, h, rect, to),
        _ => resize::<Rgb<u8>>(pixels, w, h, rect, to),
    }
}

fn resize<P: Pixel<Subpixel = u8> + 'static>(
    pixels: &[u8],
    w: usize,
    h: usize,
    rect: [usize; 4],
    to: [usize; 2],
) -> Vec<u8> {
    let [x, y, rw, rh] = rect.map(|v| v as u32);
    let Some(image) = ImageBuffer::<P, &[u8]>::from_raw(w as u32, h as u32, pixels) else {
        unreachable!("a Picture holds exactly its pixels");
    };
    let part = imageops::crop_imm(&image, x, y, rw, rh);
    imageops::resize(&*part, to[0] as u32, to[1] as u32, FilterType::Triangle).into_raw()
}

/// What the outer frame of a grey picture looks like.
struct Border {
    median: u8,
    /// The distance from the median that nine tenths of the frame keep.
    spread: u8,
}

fn border(pixels: &[u8], w: usize, h: usize) -> Border {
    let channels = pixels.len() / (w * h);
    let t = (w.min(h) / 14).max(1);
    let mut counts = [0usize; 256];
    for (y, row) in pixels.chunks_exact(w * channels).enumerate() {
        let (left, right) = if y < t || y >= h - t { (w, 0) } else { (t, t.min(w - t)) };
        let ends = row[..left * channels].iter().chain(&row[(w - right) * channels..]);
        ends.for_each(|&p| counts[usize::from(p)] += 1);
    }
    let quantile = |counts: &[usize; 256], num: usize, den: usize| {
        let rank = counts.iter().sum::<usize>() * num / den;
        let mut seen = 0;
        counts.iter().position(|&n| (seen += n, seen > rank).1).unwrap_or(255) as u8
    };
    let median = quantile(&counts, 1, 2);
    let mut distances = [0usize; 256];
    (0..=255u8).for_each(|v| distances[usize::from(v.abs_diff(median))] += counts[usize::from(v)]);
    Border { median, spread: quantile(&distances, 9, 10) }
}

/// A light-on-dark drawing as an MNIST digit, see [`Fit::Digit`]; `None` without even ground or visible ink.
///
/// The ground is even if nine tenths of the border are within [`MIN_CONTRAST`] of its median, and ink is visible if
/// it is more than that above it. The ground becomes 0 and the strongest ink 255.
fn fit_digit(pixels: &[u8], w: usize, h: usize, size: usize) -> Option<Vec<u8>> {
    let Border { median: ground, spread } = border(pixels, w, h);
    let peak = pixels.iter().max()?.saturating_sub(ground);
    if spread > MIN_CONTRAST || peak <= MIN_CONTRAST {
        return None;
    }
    // What is as faint as the unevenness of the ground is ground.
    let floor = u32::from((peak / 8).max(spread).min(peak / 2));
    let range = u32::from(peak) - floor;
    let ink = |p: u8| (u32::from(p.saturating_sub(ground)).saturating_sub(floor) * 255 / range) as u8;
    let ink: Vec<u8> = pixels.iter().map(|&p| ink(p)).collect();
    let (mut x0, mut x1, mut y0, mut y1) = (w, 0, h, 0);
    for (y, row) in ink.chunks_exact(w).enumerate() {
        if let Some(first) = row.iter().position(|&p| p >= 128) {
            let last = row.iter().rposition(|&p| p >= 128).unwrap_or(first);
            (x0, x1, y0, y1) = (x0.min(first), x1.max(last), y0.min(y), y);
        }
    }
    let (bw, bh) = ((x1 + 1).checked_sub(x0)?, (y1 + 1).checked_sub(y0)?);
    let long = (size * 20).div_ceil(28);
    let scaled = |side: usize| ((side * long * 2 + bw.max(bh)) / (bw.max(bh) * 2)).max(1);
    let (tw, th) = (scaled(bw), scaled(bh));
    let mut digit = resized(&ink, w, h, 1, [x0, y0, bw, bh], [tw, th]);
    // A thin line fades as it shrinks; MNIST's strokes are full white in their middle.
    let strongest = u32::from(*digit.iter().max()?).max(1);
    digit.iter_mut().for_each(|p| *p = (u32::from(*p) * 255 / strongest) as u8);

    let (mut mass, mut mx, mut my) = (0u64, 0u64, 0u64);
    for (i, &p) in digit.iter().enumerate() {
        let p = u64::from(p);
        (mass, mx, my) = (mass + p, mx + p * (i % tw) as u64, my + p * (i / tw) as u64);
    }
    // In MNIST the mean index of a digit's mass is 14 of 0 to 27, half a pixel right of and below the middle.
    let place = |moment: u64, side: usize| {
        let centre = moment as f64 / mass.max(1) as f64;
        ((size as f64 / 2.0 - centre).round().max(0.0) as usize).min(size - side)
    };
    let (left, top) = (place(mx, tw), place(my, th));
    let mut out = vec![0; size * size];
    for (y, row) in digit.chunks_exact(tw).enumerate() {
        let at = (top + y) * size + left;
        out[at..at + tw].copy_from_slice(row);
    }
    Some(out)
}
