//! Small pictures for a page: the model's input, and maps over it, as bitmaps within the text.

use crate::config::Config;

/// A picture in RGB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Picture {
    width: usize,
    rgb: Vec<[u8; 3]>,
}

impl Picture {
    /// An input `[C][H][W]` as it looked before it was normalised: three channels are RGB, others their mean, in grey. Without mean and
    /// std in the configuration, values beyond 0 to 1 are stretched to it.
    pub(crate) fn of_input(image: &[f32], config: &Config) -> Self {
        let (side, channels) = (config.img_size, config.in_chans.max(1));
        let pixels = side * side;
        let own = |values: &Option<Vec<f32>>, c: usize, missing: f32| {
            values.as_ref().and_then(|v| v.get(c)).copied().unwrap_or(missing)
        };
        let raw: Vec<f32> = image
            .iter()
            .enumerate()
            .map(|(i, &x)| x * own(&config.std, i / pixels.max(1), 1.0) + own(&config.mean, i / pixels.max(1), 0.0))
            .collect();
        let (low, high) = raw.iter().fold((0.0f32, 1.0f32), |(l, h), &x| (l.min(x), h.max(x)));
        // Rounding may leave a normalised pixel just outside.
        let (low, high) = if low > -0.01 && high < 1.01 { (0.0, 1.0) } else { (low, high) };
        let byte = |x: f32| ((x - low) / (high - low) * 255.0).round().clamp(0.0, 255.0) as u8;
        let rgb = (0..pixels).map(|i| {
            let at = |c: usize| raw.get(c * pixels + i).copied().unwrap_or(0.0);
            if channels == 3 {
                [0, 1, 2].map(|c| byte(at(c)))
            } else {
                [byte((0..channels).map(at).sum::<f32>() / channels as f32); 3]
            }
        });
        Picture { width: side, rgb: rgb.collect() }
    }

    /// A map of values on a grid of `height` lines, a pixel a value, bright where they are large; to lie over a picture.
    pub(crate) fn of_map(values: &[f64], (height, width): (usize, usize)) -> Self {
        let most = values.iter().copied().fold(0.0, f64::max);
        let rgb = (0..height * width).map(|at| {
            let v = if most > 0.0 { values.get(at).copied().unwrap_or(0.0) / most } else { 0.0 };
            // From dark over orange to light yellow.
            let heat = [255.0 * (0.15 + 0.85 * v.sqrt()), 235.0 * v, 150.0 * v * v];
            heat.map(|x| x.clamp(0.0, 255.0) as u8)
        });
        Picture { width, rgb: rgb.collect() }
    }
}

/// A picture as the address of a BMP within it.
pub(crate) fn bitmap(picture: &Picture) -> String {
    let (width, row) = (picture.width.max(1), (3 * picture.width).next_multiple_of(4));
    let height = picture.rgb.len() / width;
    let (header, size) = (54u32, (row * height) as u32);
    let mut bytes = Vec::with_capacity(54 + row * height);
    bytes.extend_from_slice(b"BM");
    for word in [header + size, 0, header, 40, width as u32, height as u32, 1 | 24 << 16, 0, size, 2835, 2835, 0, 0] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    // Lines from the lowest up, pixels in BGR.
    for line in picture.rgb.chunks(width).rev() {
        bytes.extend(line.iter().flat_map(|&[r, g, b]| [b, g, r]));
        bytes.resize(bytes.len() + row - 3 * width, 0);
    }
    format!("data:image/bmp;base64,{}", base64(&bytes))
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let at = |i: usize| u32::from(three.get(i).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for i in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * i) & 63) as usize] as char;
            out.push(if i > three.len() { '=' } else { digit });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_its_standard() {
        let known =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("foobar", "Zm9vYmFy")];
        known.iter().for_each(|(text, code)| assert_eq!(base64(text.as_bytes()), *code));
    }

    #[test]
    fn maps_have_a_pixel_for_each_value() {
        let map = Picture::of_map(&[0.0, 0.0, 0.0, 0.0, 0.5, 1.0], (2, 3));
        assert_eq!((map.width, map.rgb.len()), (3, 6));
        assert!(map.rgb[0] == map.rgb[3] && map.rgb[3] != map.rgb[4] && map.rgb[4] != map.rgb[5]);
        let silent = Picture::of_map(&[0.0; 4], (2, 2));
        assert!(silent.rgb.iter().all(|p| *p == silent.rgb[0]));
        // Of 3 pixels 9 bytes and 3 more, two lines.
        assert_eq!(bitmap(&map).len(), "data:image/bmp;base64,".len() + (54 + 24usize).div_ceil(3) * 4);
    }
}
