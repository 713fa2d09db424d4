//! Pictures and data sets, whole and broken, made in temporary folders.
#![cfg(feature = "data")]

use std::fs;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use image::{DynamicImage, GrayImage, ImageFormat, Luma, Rgb, RgbImage};
use spikeshade::config::Config;
use spikeshade::data::{Dataset, Fit, Invert, Picture, Preparation, Split};

fn config(img_size: usize, in_chans: usize, num_classes: usize, class_names: Option<&[&str]>) -> Config {
    let json = serde_json::json!({
        "arch": "a2os2a", "img_size": img_size, "in_chans": in_chans, "num_classes": num_classes, "embed_dim": 64,
        "depth": 1, "num_heads": 4, "mlp_ratio": 4, "T": 4, "pooling_stat": "0011", "tau": 2.0, "v_threshold": 1.0,
        "attn_v_threshold": 0.5, "v_reset": null, "decay_input": true, "detach_reset": true, "surrogate": "sigmoid",
        "alpha": 4.0, "bn_eps": 1e-5, "class_names": class_names,
    });
    Config::from_json(&json.to_string(), "config").unwrap()
}

fn prep(img_size: usize, in_chans: usize, num_classes: usize) -> Preparation {
    Preparation::new(&config(img_size, in_chans, num_classes, None), Invert::Auto).unwrap()
}

/// The error of a result that has to be one, which has to name `name` and fit a line or two.
#[track_caller]
fn error<T>(result: spikeshade::Result<T>, name: &str) -> String {
    let Err(e) = result else { panic!("no error for {name}") };
    let text = e.to_string();
    assert!(text.contains(name), "{text:?} does not name {name}");
    assert!(text.len() < 600 && !text.contains('\n'), "{text:?}");
    text
}

fn encode(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.into().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn noise(w: u32, h: u32, seed: u32) -> RgbImage {
    let v = |x: u32, y: u32, c: u32| ((x * 31 + y * 57 + c * 91 + seed * 17).wrapping_mul(2_654_435_761) >> 24) as u8;
    RgbImage::from_fn(w, h, |x, y| Rgb([v(x, y, 0), v(x, y, 1), v(x, y, 2)]))
}

fn png(seed: u32) -> Vec<u8> {
    encode(noise(8, 8, seed), ImageFormat::Png)
}

fn write(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = path.as_ref();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
    path.to_path_buf()
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut w = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    w.write_all(bytes).unwrap();
    w.finish().unwrap()
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut w = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1)).unwrap();
    w.write_all(bytes).unwrap();
    w.finish().unwrap()
}

fn tar_of(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut b = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut h = tar::Header::new_gnu();
        h.set_size(bytes.len() as u64);
        h.set_mode(0o644);
        b.append_data(&mut h, name, &bytes[..]).unwrap();
    }
    b.into_inner().unwrap()
}

fn idx(dims: &[u32], data: &[u8]) -> Vec<u8> {
    let mut out = vec![0, 0, 8, dims.len() as u8];
    dims.iter().for_each(|d| out.extend(d.to_be_bytes()));
    out.extend(data);
    out
}

// Pictures.

#[test]
fn pictures_are_told_by_content() {
    let dir = tempfile::tempdir().unwrap();
    let image = noise(9, 7, 1);
    for (name, format) in [("a.jpg", ImageFormat::Png), ("b.txt", ImageFormat::Bmp)] {
        let p = Picture::open(write(dir.path().join(name), encode(image.clone(), format))).unwrap();
        assert_eq!((p.width(), p.height(), p.channels(), p.pixels()), (9, 7, 3, &image.as_raw()[..]));
    }
    let flat = RgbImage::from_pixel(16, 16, Rgb([200, 100, 50]));
    let p = Picture::open(write(dir.path().join("c.png"), encode(flat, ImageFormat::Jpeg))).unwrap();
    assert!(p.pixels().chunks(3).all(|p| p[0].abs_diff(200) < 4 && p[1].abs_diff(100) < 4 && p[2].abs_diff(50) < 4));
}

#[test]
fn depth_and_transparency() {
    let grey16 = image::ImageBuffer::<Luma<u16>, _>::from_fn(4, 4, |x, _| Luma([x as u16 * 257 * 50]));
    let p = Picture::decode(&encode(grey16, ImageFormat::Png), "x").unwrap();
    assert_eq!((p.channels(), &p.pixels()[..4]), (1, &[0, 50, 100, 150][..]));
    // Black on nothing goes on white; white on nothing goes on black.
    for (ink, ground) in [(0, 255), (255, 0)] {
        let rgba = image::RgbaImage::from_fn(2, 1, |x, _| image::Rgba([ink, ink, ink, if x == 0 { 255 } else { 0 }]));
        let p = Picture::decode(&encode(rgba, ImageFormat::Png), "x").unwrap();
        assert_eq!(p.pixels(), [ink, ink, ink, ground, ground, ground]);
        let la = image::GrayAlphaImage::from_fn(2, 1, |x, _| image::LumaA([ink, if x == 0 { 255 } else { 0 }]));
        let p = Picture::decode(&encode(la, ImageFormat::Png), "x").unwrap();
        assert_eq!((p.channels(), p.pixels()), (1, &[ink, ground][..]));
    }
}

#[test]
fn unusable_pictures_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str, bytes: &[u8]| Picture::open(write(dir.path().join(name), bytes));
    assert!(error(at("empty.png", b""), "empty.png").contains("0 bytes"));
    assert!(error(at("text.png", b"this is no picture"), "text.png").contains("PNG, JPEG or BMP"));
    assert!(error(at("x.gif", b"GIF89a\x01\0\x01\0\0\0\0"), "x.gif").contains("PNG, JPEG or BMP"));
    assert!(error(Picture::open(dir.path()), &dir.path().display().to_string()).contains("folder"));
    error(Picture::open(dir.path().join("none.png")), "none.png");

    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Bmp] {
        let whole = encode(noise(40, 30, 2), format);
        for cut in (0..whole.len() - 12).step_by(whole.len() / 97 + 1) {
            error(at("cut.png", &whole[..cut]), "cut.png");
        }
    }
}

/// A PNG of one IHDR chunk that claims w×h pixels, and a little data.
fn lying_png(w: u32, h: u32) -> Vec<u8> {
    let mut bytes = encode(noise(4, 4, 0), ImageFormat::Png);
    bytes[16..20].copy_from_slice(&w.to_be_bytes());
    bytes[20..24].copy_from_slice(&h.to_be_bytes());
    let mut crc = flate2::Crc::new();
    crc.update(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&crc.sum().to_be_bytes());
    bytes
}

#[test]
fn huge_headers_are_errors() {
    for (w, h) in [(100_000, 100_000), (16_385, 1), (1, 16_385), (16_384, 16_384), (u32::MAX, u32::MAX), (0, 5)] {
        error(Picture::decode(&lying_png(w, h), "huge.png"), "huge.png");
    }
    assert!(error(Picture::decode(&lying_png(100_000, 100_000), "huge.png"), "huge.png").contains("16384"));
    assert!(error(Picture::decode(&lying_png(16_384, 16_384), "huge.png"), "huge.png").contains("256 MiB"));
    let mut bmp = encode(noise(4, 4, 0), ImageFormat::Bmp);
    bmp[18..22].copy_from_slice(&100_000u32.to_le_bytes());
    bmp[22..26].copy_from_slice(&100_000u32.to_le_bytes());
    assert!(error(Picture::decode(&bmp, "huge.bmp"), "huge.bmp").contains("make the picture smaller"));
    let mut jpeg = encode(noise(4, 4, 0), ImageFormat::Jpeg);
    let sof = jpeg.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    jpeg[sof + 5..sof + 9].fill(0xff);
    assert!(error(Picture::decode(&jpeg, "huge.jpg"), "huge.jpg").contains("make the picture smaller"));
}

#[test]
fn damaged_pictures_never_panic() {
    let mut state = 1u64;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) as usize) % below
    };
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Bmp] {
        for image in [DynamicImage::from(noise(17, 13, 3)), GrayImage::from_pixel(9, 40, Luma([7])).into()] {
            let whole = encode(image, format);
            for _ in 0..1500 {
                let mut bytes = whole.clone();
                for _ in 0..1 + random(4) {
                    // Headers are short and worth more than their share.
                    let at = if random(2) == 0 { random(bytes.len().min(64)) } else { random(bytes.len()) };
                    bytes[at] = random(256) as u8;
                }
                let _ = Picture::decode(&bytes, "damaged");
            }
        }
    }
}

#[test]
fn impossible_pictures_and_configurations_are_errors() {
    for (w, h, c, n) in [(0, 1, 1, 0), (2, 2, 2, 8), (2, 2, 1, 5), (usize::MAX, 2, 3, 6)] {
        assert!(Picture::new(w, h, c, vec![0; n]).is_err());
    }
    let mut c = config(28, 2, 10, None);
    assert!(error(Preparation::new(&c, Invert::No), "in_chans").contains('2'));
    c = config(28, 3, 10, None);
    for (mean, std) in
        [(vec![0.5], vec![1.0; 3]), (vec![0.5; 3], vec![1.0, 0.0, 1.0]), (vec![f32::NAN; 3], vec![1.0; 3])]
    {
        (c.mean, c.std) = (Some(mean), Some(std));
        assert!(Preparation::new(&c, Invert::No).is_err());
    }
    for size in [0, 100_000] {
        c = config(28, 1, 10, None);
        c.img_size = size;
        error(Preparation::new(&c, Invert::No), "img_size");
    }
}

// Preparation.

#[test]
fn a_picture_of_the_right_size_is_exact() {
    let mut c = config(8, 3, 5, None);
    let (mean, std) = ([0.4914f32, 0.4822, 0.4465], [0.247f32, 0.2435, 0.2616]);
    (c.mean, c.std) = (Some(mean.to_vec()), Some(std.to_vec()));
    let image = noise(8, 8, 4);
    let picture = Picture::new(8, 8, 3, image.as_raw().clone()).unwrap();
    let p = Preparation::new(&c, Invert::Auto).unwrap();
    let out = p.prepare(&picture);
    assert_eq!((p.shape(), out.len()), ([3, 8, 8], 192));
    for (i, &v) in out.iter().enumerate() {
        let (ch, at) = (i / 64, i % 64);
        assert_eq!(v, (f32::from(image.as_raw()[at * 3 + ch]) / 255.0 - mean[ch]) / std[ch]);
    }
    let negative = Preparation::new(&c, Invert::Yes).unwrap().prepare(&picture);
    assert_eq!(negative[0], (f32::from(255 - image.as_raw()[0]) / 255.0 - mean[0]) / std[0]);

    // Grey and colour: equal channels are their own brightness, and a grey picture fills three planes.
    let grey: Vec<u8> = (0..=255).collect();
    let as_rgb = grey.iter().flat_map(|&v| [v; 3]).collect();
    let one = prep(16, 1, 5).prepare(&Picture::new(16, 16, 3, as_rgb).unwrap());
    assert!(one.iter().zip(&grey).all(|(&o, &g)| o == f32::from(g) / 255.0));
    let three = prep(16, 3, 5).prepare(&Picture::new(16, 16, 1, grey).unwrap());
    assert_eq!(three, one.repeat(3));
}

#[test]
fn other_sizes_are_cropped_to_the_middle_and_averaged() {
    // A white middle square between black sides.
    let wide = GrayImage::from_fn(96, 32, |x, _| Luma([if (32..64).contains(&x) { 255 } else { 0 }]));
    let out = prep(8, 3, 10).prepare(&Picture::decode(&encode(wide, ImageFormat::Png), "x").unwrap());
    assert!(out.iter().all(|&v| v == 1.0));
    // A fine chequerboard becomes even grey, not a pattern.
    let chequer = GrayImage::from_fn(64, 64, |x, y| Luma([if (x + y) % 2 == 0 { 255 } else { 0 }]));
    let out = prep(8, 3, 10).prepare(&Picture::decode(&encode(chequer, ImageFormat::Png), "x").unwrap());
    assert!(out.iter().all(|&v| (v - 0.5).abs() < 0.02), "{out:?}");
    // Extreme proportions cost no memory.
    for (w, h) in [(16_384, 1), (1, 16_384), (1, 1), (2, 3)] {
        let out = prep(224, 1, 10).prepare(&Picture::new(w, h, 1, vec![9; w * h]).unwrap());
        assert_eq!(out.len(), 224 * 224);
    }
}

#[test]
fn light_paper_is_inverted_for_digit_models_only() {
    let mut drawing = vec![250u8; 784];
    drawing[14 * 28 + 14] = 10;
    let drawing = Picture::new(28, 28, 1, drawing).unwrap();
    let of = |c: &Config, invert| Preparation::new(c, invert).unwrap().prepare(&drawing)[0];
    let (digits, other) = (config(28, 1, 10, None), config(28, 1, 10, Some(&["shirt"; 10])));
    let words =
        config(28, 1, 10, Some(&["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "Nine"]));
    assert_eq!(of(&digits, Invert::Auto), 5.0 / 255.0);
    assert_eq!(of(&words, Invert::Auto), 5.0 / 255.0);
    assert_eq!(of(&digits, Invert::No), 250.0 / 255.0);
    assert_eq!(of(&other, Invert::Auto), 250.0 / 255.0);
    assert_eq!(of(&other, Invert::Yes), 5.0 / 255.0);
}

#[test]
fn a_digit_model_with_further_classes_is_one_still() {
    let digits = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    let preparation =
        |names: &[&str]| Preparation::new(&config(28, 1, names.len(), Some(names)), Invert::Auto).unwrap();
    let mut drawing = GrayImage::from_pixel(60, 90, Luma([250]));
    (20..70).for_each(|y| (28..34).for_each(|x| drawing.put_pixel(x, y, Luma([10]))));
    let picture = Picture::decode(&encode(drawing, ImageFormat::Png), "drawing").unwrap();
    let known = preparation(&digits).prepare(&picture);
    assert_eq!(preparation(&[&digits[..], &["star"]].concat()).prepare(&picture), known);
    // Ten others are no digits.
    assert_ne!(preparation(&["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"]).prepare(&picture), known);
}

#[test]
fn a_canvas_gives_the_picture_that_its_file_gives() {
    let rgba = |i: usize| -> [u8; 4] {
        let v = (i * 37 % 256) as u8;
        [v, v.wrapping_mul(3), 255 - v, if i.is_multiple_of(3) { v } else { 255 }]
    };
    let pixels: Vec<u8> = (0..30).flat_map(rgba).collect();
    let file = image::RgbaImage::from_raw(6, 5, pixels.clone()).unwrap();
    let decoded = Picture::decode(&encode(file, ImageFormat::Png), "file").unwrap();
    assert_eq!(Picture::from_rgba(6, 5, pixels.clone()).unwrap(), decoded);
    // A grey file's canvas is as bright.
    let grey = GrayImage::from_fn(7, 3, |x, y| Luma([(x * 30 + y * 11) as u8]));
    let canvas: Vec<u8> = grey.as_raw().iter().flat_map(|&v| [v, v, v, 255]).collect();
    let file = Picture::decode(&encode(grey, ImageFormat::Png), "file").unwrap();
    let canvas = Picture::from_rgba(7, 3, canvas).unwrap();
    let preparation = prep(7, 1, 5);
    assert_eq!(preparation.prepare(&canvas), preparation.prepare(&file));
    for (width, height) in [(6, 4), (0, 5), (usize::MAX, 2)] {
        error(Picture::from_rgba(width, height, pixels.clone()), "120 bytes");
    }
}

#[test]
fn a_drawn_digit_fills_the_box_and_is_centred_by_mass() {
    // An L of ink in a corner of a large sheet; faint unevenness in the paper.
    let sheet = |ground: u8, ink: u8| {
        let pixels: Vec<u8> = (0..300 * 200)
            .map(|i| (i % 300, i / 300))
            .map(|(x, y)| match () {
                _ if (40..50).contains(&x) && (60..120).contains(&y) => ink,
                _ if (40..70).contains(&x) && (110..120).contains(&y) => ink,
                _ => ground + ((x * 7 + y * 3) % 9) as u8,
            })
            .collect();
        Picture::new(300, 200, 1, pixels).unwrap()
    };
    for picture in [sheet(240, 20), sheet(5, 230)] {
        let out = prep(28, 1, 10).prepare(&picture);
        let on: Vec<_> = (0..784).filter(|&i| out[i] > 0.0).map(|i| (i % 28, i / 28)).collect();
        let (x0, x1) = (on.iter().map(|p| p.0).min().unwrap(), on.iter().map(|p| p.0).max().unwrap());
        let (y0, y1) = (on.iter().map(|p| p.1).min().unwrap(), on.iter().map(|p| p.1).max().unwrap());
        assert_eq!((x1 - x0 + 1, y1 - y0 + 1), (10, 20));
        let mass: f32 = out.iter().sum();
        let cx = (0..784).map(|i| out[i] * (i % 28) as f32).sum::<f32>() / mass;
        let cy = (0..784).map(|i| out[i] * (i / 28) as f32).sum::<f32>() / mass;
        assert!((cx - 14.0).abs() <= 0.5 && (cy - 14.0).abs() <= 0.5, "{cx} {cy}");
        assert_eq!(out.iter().copied().fold(0.0, f32::max), 1.0);
        // Asked not to, it crops.
        let cropped = prep(28, 1, 10).with_fit(Fit::Crop).prepare(&picture);
        assert_ne!(cropped, out);
    }
    // Blank paper and a picture without even ground are cropped.
    let blank = Picture::new(60, 60, 1, vec![240; 3600]).unwrap();
    assert!(prep(28, 1, 10).prepare(&blank).iter().all(|&v| v == 15.0 / 255.0));
    let ramp = Picture::new(64, 64, 1, (0..4096).map(|i| (i % 64 * 4) as u8).collect()).unwrap();
    let p = prep(28, 1, 10);
    assert_eq!(p.prepare(&ramp), p.with_fit(Fit::Crop).prepare(&ramp));
}

#[test]
fn every_small_size_prepares() {
    for (w, h) in (1..12).flat_map(|w| (1..12).map(move |h| (w, h))) {
        for seed in 0..3u32 {
            let pixels = (0..w * h).map(|i| ((i as u32 * 97 + seed * 131) % 256) as u8).collect();
            let picture = Picture::new(w, h, 1, pixels).unwrap();
            for size in [1, 2, 5, 28] {
                for fit in [Fit::Crop, Fit::Digit] {
                    assert_eq!(prep(size, 1, 10).with_fit(fit).prepare(&picture).len(), size * size);
                }
            }
        }
    }
}

#[test]
fn the_sample_pictures_look_like_mnist() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/images");
    let mut count = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let picture = Picture::open(entry.unwrap().path()).unwrap();
        let out = prep(28, 1, 10).prepare(&picture);
        let ink = out.iter().sum::<f32>();
        // MNIST's mean is 102, with 16 to 316 the extremes.
        assert!((30.0..200.0).contains(&ink) && out[..28].iter().all(|&v| v == 0.0), "{ink}");
        count += 1;
    }
    assert_eq!(count, 14);
}

// Data sets.

/// Three 2×2 pictures with labels 3, 1 and 2.
fn mnist_files() -> (Vec<u8>, Vec<u8>) {
    (idx(&[3, 2, 2], &(0..12).collect::<Vec<u8>>()), idx(&[3], &[3, 1, 2]))
}

#[test]
fn idx_files() {
    let (images, labels) = mnist_files();
    for (prefix, split, dot, place, pack) in [
        ("train", Split::Train, "-", "", false),
        ("t10k", Split::Test, ".", "", true),
        ("test", Split::Test, "-", "anything", false),
        ("t10k", Split::Test, "-", "MNIST/raw", true),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let ext = if pack { ".gz" } else { "" };
        let pack = |bytes: &[u8]| if pack { gz(bytes) } else { bytes.to_vec() };
        let folder = dir.path().join(place);
        write(folder.join(format!("{prefix}-images{dot}idx3-ubyte{ext}")), pack(&images));
        write(folder.join(format!("{prefix}-labels{dot}idx1-ubyte{ext}")), pack(&labels));
        // Light pictures of a data set are not inverted.
        let d = Dataset::open(dir.path(), split, &prep(2, 1, 10)).unwrap();
        assert_eq!((d.len(), d.shape(), d.labels(), d.class_names()), (3, [1, 2, 2], &[3, 1, 2][..], None));
        let (x, y) = d.batch(&[2, 0, 2]).unwrap();
        let expected: Vec<f32> = [8, 9, 10, 11, 0, 1, 2, 3, 8, 9, 10, 11].map(|v| v as f32 / 255.0).to_vec();
        assert_eq!((x, y), (expected.clone(), vec![2, 3, 2]));
        assert_eq!(d.get(2).unwrap(), (expected[..4].to_vec(), 2));
        assert!(error(d.batch(&[0, 3]).map(|_| ()), "3").contains("no picture"));
        assert!(d.get(usize::MAX).is_err());
        assert_eq!(d.batch(&[]).unwrap(), (vec![], vec![]));

        let other = if split == Split::Train { Split::Test } else { Split::Train };
        assert!(error(Dataset::open(dir.path(), other, &prep(2, 1, 10)), &other.to_string()).contains("split"));
        error(Dataset::open(dir.path(), split, &prep(2, 1, 3)), "labels");
    }
    assert!(error("vla".parse::<Split>(), "vla").contains("train"));
}

#[test]
fn broken_idx_files_are_errors() {
    let (images, labels) = mnist_files();
    let dir = tempfile::tempdir().unwrap();
    let try_with = |i: &[u8], l: &[u8], name: &str| {
        write(dir.path().join("train-images-idx3-ubyte"), i);
        write(dir.path().join("train-labels-idx1-ubyte"), l);
        error(Dataset::open(dir.path(), Split::Train, &prep(2, 1, 10)), name)
    };
    for cut in 0..images.len() {
        try_with(&images[..cut], &labels, "train-images-idx3-ubyte");
    }
    for cut in 0..labels.len() {
        try_with(&images, &labels[..cut], "train-labels-idx1-ubyte");
    }
    let packed = gz(&images);
    for cut in 2..packed.len() {
        try_with(&packed[..cut], &labels, "train-images-idx3-ubyte");
    }
    let mut garbage = packed.clone();
    garbage[10..].fill(0x5a);
    try_with(&garbage, &labels, "train-images-idx3-ubyte");
    // Wrong magic, other element types, and the two files in each other's place.
    assert!(try_with(&labels, &images, "train-images-idx3-ubyte").contains("00000803"));
    let mut floats = images.clone();
    floats[2] = 0x0d;
    try_with(&floats, &labels, "train-images-idx3-ubyte");
    // Counts that lie, with each other, with the data, and beyond all memory.
    try_with(&images, &idx(&[2], &[1, 2]), "train-labels-idx1-ubyte");
    try_with(&idx(&[4, 2, 2], &[0; 12]), &labels, "train-images-idx3-ubyte");
    try_with(&idx(&[2, 2, 2], &[0; 12]), &labels, "train-images-idx3-ubyte");
    try_with(&idx(&[u32::MAX; 3], &[0; 12]), &labels, "train-images-idx3-ubyte");
    try_with(&idx(&[1 << 20, 1 << 5, 1 << 5], &[0; 12]), &labels, "train-images-idx3-ubyte");
    try_with(&idx(&[0, 2, 2], &[]), &idx(&[0], &[]), "train-images-idx3-ubyte");
    // More data than the header says is not unpacked to its end.
    try_with(&gz(&idx(&[3, 2, 2], &vec![0; 64 << 20])), &labels, "train-images-idx3-ubyte");

    fs::remove_file(dir.path().join("train-labels-idx1-ubyte")).unwrap();
    write(dir.path().join("train-images-idx3-ubyte"), &images);
    assert!(error(Dataset::open(dir.path(), Split::Train, &prep(2, 1, 10)), "train-images").contains("labels"));
}

fn cifar_record(lead: &[u8], seed: u32) -> (Vec<u8>, RgbImage) {
    let image = noise(32, 32, seed);
    let plane = |c: usize| image.pixels().map(move |p| p.0[c]).collect::<Vec<u8>>();
    ([lead, &plane(0), &plane(1), &plane(2)].concat(), image)
}

#[test]
fn cifar_files() {
    let dir = tempfile::tempdir().unwrap();
    let ten = dir.path().join("ten/cifar-10-batches-bin");
    let ((a, image), (b, _)) = (cifar_record(&[7], 1), cifar_record(&[2], 2));
    for i in 1..=5 {
        write(ten.join(format!("data_batch_{i}.bin")), [&a[..], &b].concat());
    }
    write(ten.join("test_batch.bin"), &b);
    let names = ["p", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
    write(ten.join("batches.meta.txt"), names.join("\n") + "\n\n");
    let d = Dataset::open(dir.path().join("ten"), Split::Train, &prep(32, 3, 10)).unwrap();
    assert_eq!((d.len(), &d.labels()[..3], d.class_names().unwrap()[0].as_str()), (10, &[7, 2, 7][..], "p"));
    assert_eq!(d.picture(0).unwrap().pixels(), &image.as_raw()[..]);
    assert_eq!(d.get(0).unwrap().0[1], f32::from(image.as_raw()[3]) / 255.0);
    assert_eq!(Dataset::open(&ten, Split::Test, &prep(32, 3, 10)).unwrap().labels(), [2]);
    // A model with the same names in another order keeps its own labels.
    let mut turned = names;
    turned.reverse();
    let p = Preparation::new(&config(32, 3, 10, Some(&turned)), Invert::Auto).unwrap();
    assert_eq!(Dataset::open(&ten, Split::Test, &p).unwrap().labels(), [7]);

    let test = |bytes: &[u8], name: &str| {
        write(ten.join("test_batch.bin"), bytes);
        error(Dataset::open(&ten, Split::Test, &prep(32, 3, 10)), name)
    };
    for cut in [0, 1, 3072] {
        test(&b[..cut], "test_batch.bin");
    }
    test(&[&b[..], &[1]].concat(), "test_batch.bin");
    assert!(test(&cifar_record(&[10], 1).0, "test_batch.bin").contains("label 10"));
    fs::remove_file(ten.join("data_batch_4.bin")).unwrap();
    error(Dataset::open(&ten, Split::Train, &prep(32, 3, 10)), "data_batch_4.bin");
    fs::remove_file(ten.join("test_batch.bin")).unwrap();
    error(Dataset::open(&ten, Split::Test, &prep(32, 3, 10)), "cifar-10-batches-bin");
    write(ten.join("batches.meta.txt"), "a\nb");
    write(ten.join("test_batch.bin"), &b);
    error(Dataset::open(&ten, Split::Test, &prep(32, 3, 10)), "batches.meta.txt");

    let hundred = dir.path().join("hundred");
    write(hundred.join("test.bin"), cifar_record(&[3, 99], 5).0);
    let d = Dataset::open(&hundred, Split::Test, &prep(32, 3, 100)).unwrap();
    assert_eq!((d.labels(), d.class_names()), (&[99][..], None));
    assert!(error(Dataset::open(&hundred, Split::Test, &prep(32, 3, 10)), "hundred").contains("10 classes"));
    error(Dataset::open(&hundred, Split::Train, &prep(32, 3, 100)), "hundred");
}

fn class_files() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("train/cat/1.png", png(1)),
        ("train/cat/2.PNG", png(2)),
        ("train/ant/1.jpeg", encode(noise(8, 8, 3), ImageFormat::Jpeg)),
        ("train/ant/notes.txt", b"no picture".to_vec()),
        ("train/ant/._1.jpeg", b"litter".to_vec()),
        ("val/bee/a.bmp", encode(noise(8, 8, 4), ImageFormat::Bmp)),
        ("readme.txt", b"hello".to_vec()),
    ]
}

/// The files as a folder and as each kind of archive.
fn as_sets(dir: &Path, files: &[(&str, Vec<u8>)]) -> Vec<PathBuf> {
    files.iter().for_each(|(name, bytes)| drop(write(dir.join("folder").join(name), bytes)));
    let tar = tar_of(files);
    vec![
        dir.join("folder"),
        write(dir.join("a.tar"), &tar),
        write(dir.join("b.bin"), gz(&tar)),
        write(dir.join("c.tar"), xz(&tar)),
    ]
}

#[test]
fn class_folders_and_archives() {
    let dir = tempfile::tempdir().unwrap();
    for set in as_sets(dir.path(), &class_files()) {
        let d = Dataset::open(&set, Split::Train, &prep(8, 3, 3)).unwrap();
        assert_eq!(d.class_names().unwrap(), ["ant", "bee", "cat"]);
        assert_eq!(d.labels(), [0, 2, 2], "in turn from each class");
        let (x, y) = d.batch(&[1, 2, 0]).unwrap();
        assert_eq!((x.len(), y), (3 * 192, vec![2, 2, 0]));
        assert_eq!(x[0], f32::from(noise(8, 8, 1).as_raw()[0]) / 255.0);
        // `val` where there is no `test`.
        let d = Dataset::open(&set, Split::Test, &prep(8, 3, 3)).unwrap();
        assert_eq!((d.labels(), d.picture(0).unwrap().pixels()), (&[1][..], &noise(8, 8, 4).as_raw()[..]));
        // The model's own order and spelling.
        let named = |names: &[&str]| {
            let p = Preparation::new(&config(8, 3, names.len(), Some(names)), Invert::Auto).unwrap();
            Dataset::open(&set, Split::Train, &p)
        };
        let d = named(&["Cat", "dog", "ant", "bee"]).unwrap();
        assert_eq!((d.labels(), d.class_names().unwrap()[0].as_str()), (&[2, 0, 0][..], "Cat"));
        let file = set.file_name().unwrap().to_str().unwrap();
        assert!(error(named(&["cat", "ant", "wasp"]), file).contains("bee"));
        assert!(error(Dataset::open(&set, Split::Train, &prep(8, 3, 4)), file).contains("4 classes"));
    }
}

#[test]
fn class_folders_without_splits_or_inside_one_folder() {
    let dir = tempfile::tempdir().unwrap();
    let whole = [("10/a.png", png(1)), ("9/a.png", png(2)), ("9/b.png", png(3))];
    let long = format!("digits/{}/picture.png", "n".repeat(120));
    let wrapped = [("digits/a/1.png", png(1)), (&long[..], png(2))];
    let deep = [("set/train/a/1.png", png(1)), ("set/test/a/1.png", png(2)), ("set/val/b/1.png", png(2))];
    let sets = |name: &str, files: &[(&str, Vec<u8>)]| as_sets(&dir.path().join(name), files);
    for set in sets("whole", &whole) {
        for split in [Split::Train, Split::Test] {
            let d = Dataset::open(&set, split, &prep(8, 3, 2)).unwrap();
            assert_eq!((d.class_names().unwrap(), d.labels()), (&["9".into(), "10".into()][..], &[0, 1, 0][..]));
        }
    }
    for set in sets("wrapped", &wrapped) {
        let d = Dataset::open(&set, Split::Test, &prep(8, 3, 2)).unwrap();
        assert_eq!((d.len(), d.class_names().unwrap()[1].len()), (2, 120));
    }
    for set in sets("deep", &deep) {
        let d = Dataset::open(&set, Split::Test, &prep(8, 3, 2)).unwrap();
        assert_eq!((d.len(), d.picture(0).unwrap().pixels()), (1, &noise(8, 8, 2).as_raw()[..]));
    }
}

#[test]
fn unusable_sets_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let p = prep(8, 3, 1);
    let open = |path: &Path| Dataset::open(path, Split::Train, &p);
    fs::create_dir(dir.path().join("void")).unwrap();
    assert!(error(open(&dir.path().join("void")), "void").contains("no data set"));
    error(open(&dir.path().join("missing")), "missing");
    error(open(&write(dir.path().join("empty.tar"), b"")), "empty.tar");
    error(open(&write(dir.path().join("text.tar.gz"), b"this is text")), "text.tar.gz");
    error(open(&write(dir.path().join("text.gz"), gz(b"this is text"))), "text.gz");
    error(open(&write(dir.path().join("zeros.gz"), gz(&[0; 4096]))), "zeros.gz");
    error(open(&write(dir.path().join("picture.png"), png(1))), "picture.png");
    for set in as_sets(&dir.path().join("only"), &[("test/a/1.png", png(1))]) {
        let file = set.file_name().unwrap().to_str().unwrap();
        assert!(error(open(&set), file).contains("train"));
    }
    // A picture that cannot be read is named when it is asked for.
    for set in as_sets(&dir.path().join("bad"), &[("a/1.png", png(1)), ("a/text.png", b"text".to_vec())]) {
        let d = open(&set).unwrap();
        assert!(error(d.batch(&[0, 1]).map(|_| ()), "text.png").contains(set.file_name().unwrap().to_str().unwrap()));
        d.batch(&[0]).unwrap();
    }
}

#[test]
fn broken_archives_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let p = prep(8, 3, 2);
    let open = |bytes: &[u8]| Dataset::open(write(dir.path().join("set.tar.x"), bytes), Split::Train, &p);
    let files: Vec<_> = (0..40).map(|i| (format!("train/{}/{i}.png", i % 2), png(i))).collect();
    let files: Vec<_> = files.iter().map(|(n, b)| (n.as_str(), b.clone())).collect();
    let tar = tar_of(&files);
    assert_eq!(open(&tar).unwrap().len(), 40);
    let end = tar.len() - 1024;
    for cut in (0..end).step_by(509).chain([512, 1024, end, end + 511]) {
        error(open(&tar[..cut]), "set.tar.x");
    }
    for packed in [gz(&tar), xz(&tar)] {
        assert_eq!(open(&packed).unwrap().len(), 40);
        for cut in (0..packed.len()).step_by(packed.len() / 150 + 1).chain(packed.len() - 30..packed.len()) {
            error(open(&packed[..cut]), "set.tar.x");
        }
        for at in (0..packed.len()).step_by(packed.len() / 150 + 1) {
            let mut bytes = packed.clone();
            bytes[at] ^= 0x55;
            let _ = open(&bytes);
        }
    }
    // Damage in the headers, a size beyond all memory among it.
    for at in 0..512 {
        let mut bytes = tar.clone();
        bytes[at] ^= 0x15;
        let _ = open(&bytes);
    }
    let mut header = tar::Header::new_gnu();
    header.set_path("train/0/x.png").unwrap();
    for size in [1 << 20, 1 << 40, u64::MAX / 2] {
        for kind in [tar::EntryType::Regular, tar::EntryType::GNULongName, tar::EntryType::XHeader] {
            header.set_entry_type(kind);
            header.set_size(size);
            header.set_cksum();
            let message = error(open(&[header.as_bytes(), &[7; 2048][..]].concat()), "set.tar.x");
            assert!(!message.contains("make the picture smaller"), "{message}");
        }
    }
}

/// Links in an archive are no pictures, and do not disturb the names of what follows them.
#[test]
fn links_in_archives_are_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let long = format!("train/0/{}.png", "n".repeat(200));
    let mut b = tar::Builder::new(Vec::new());
    let mut add = |name: &str, target: Option<(&str, tar::EntryType)>| {
        let mut h = tar::Header::new_gnu();
        h.set_mode(0o644);
        let bytes = png(1);
        match target {
            Some((target, kind)) => {
                h.set_entry_type(kind);
                h.set_size(0);
                b.append_link(&mut h, name, target).unwrap();
            }
            None => {
                h.set_size(bytes.len() as u64);
                b.append_data(&mut h, name, &bytes[..]).unwrap();
            }
        }
    };
    add(&long, None);
    add("train/0/soft.png", Some((&long, tar::EntryType::Symlink)));
    add("train/1/x.png", None);
    add(&format!("train/1/{}.png", "m".repeat(200)), Some((&long, tar::EntryType::Link)));
    add("train/1/y.png", None);
    add("train/2/z.png", Some(("x", tar::EntryType::Symlink)));
    let tar = b.into_inner().unwrap();
    let open = |split| Dataset::open(write(dir.path().join("set.tar"), &tar), split, &prep(8, 3, 2));
    let d = open(Split::Train).unwrap();
    assert_eq!(d.labels(), [0, 1, 1]);
    d.batch(&[0, 1, 2]).unwrap();
    error(open(Split::Test), "set.tar");
}

#[test]
fn shuffled_batches_agree_with_single_pictures() {
    let dir = tempfile::tempdir().unwrap();
    let files: Vec<_> = (0..30).map(|i| (format!("{}/{i:02}.png", i % 3), png(i))).collect();
    let files: Vec<_> = files.iter().map(|(n, b)| (n.as_str(), b.clone())).collect();
    let d = Dataset::open(&as_sets(dir.path(), &files)[3], Split::Train, &prep(6, 3, 3)).unwrap();
    let order: Vec<usize> = (0..60).map(|i| (i * 7) % 30).collect();
    let (x, y) = d.batch(&order).unwrap();
    for ((x, y), &i) in x.chunks(108).zip(y).zip(&order) {
        assert_eq!((x.to_vec(), y), d.get(i).unwrap());
    }
}
