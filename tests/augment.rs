//! The loader of training batches, and what augmentation does to them.
#![cfg(feature = "data")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use spikeshade::config::Config;
use spikeshade::data::{
    Affine, Augmentation, Batch, ColourJitter, Dataset, Erasing, Filling, Invert, Loader, LoaderOptions, Mixing,
    Preparation, RandAugment, RandomResizedCrop, Split,
};

fn preparation(side: usize, channels: usize, classes: usize) -> Preparation {
    let mut config = Config::preset("mnist-2-64").unwrap();
    (config.img_size, config.in_chans, config.num_classes, config.class_names) = (side, channels, classes, None);
    config.mean = Some(vec![0.3, 0.4, 0.5][..channels].to_vec());
    config.std = Some(vec![0.25, 0.3, 0.2][..channels].to_vec());
    Preparation::new(&config, Invert::No).unwrap()
}

fn pixel(i: usize) -> u8 {
    ((i as u32).wrapping_mul(2_654_435_761) >> 24) as u8
}

/// `n` grey pictures of `side`², label i % 10, as IDX files.
fn digits(dir: &Path, n: usize, side: usize, pixel: impl Fn(usize) -> u8) -> Arc<Dataset> {
    let file = |name: &str, dims: &[usize], data: Vec<u8>| {
        let mut bytes = vec![0, 0, 8, dims.len() as u8];
        dims.iter().for_each(|&d| bytes.extend((d as u32).to_be_bytes()));
        fs::write(dir.join(name), [bytes, data].concat()).unwrap();
    };
    file("train-images-idx3-ubyte", &[n, side, side], (0..n * side * side).map(pixel).collect());
    file("train-labels-idx1-ubyte", &[n], (0..n).map(|i| (i % 10) as u8).collect());
    Arc::new(Dataset::open(dir, Split::Train, &preparation(side, 1, 10)).unwrap())
}

/// `n` PNG files of `w`×`h` in two class folders, for a model of 8×8.
fn files(dir: &Path, n: usize, w: u32, h: u32) -> Arc<Dataset> {
    for i in 0..n {
        let image = image::RgbImage::from_fn(w, h, |x, y| {
            let at = (i * 7919 + (y * w + x) as usize) * 3;
            image::Rgb([pixel(at), pixel(at + 1), pixel(at + 2)])
        });
        let folder = dir.join(format!("{}", i % 2));
        fs::create_dir_all(&folder).unwrap();
        image.save(folder.join(format!("{i:03}.png"))).unwrap();
    }
    Arc::new(Dataset::open(dir, Split::Train, &preparation(8, 3, 2)).unwrap())
}

fn options(batch: usize, augmentation: Augmentation) -> LoaderOptions {
    LoaderOptions { batch, augmentation, ..Default::default() }
}

fn all(dataset: &Arc<Dataset>, options: LoaderOptions, epoch: u64) -> Vec<Batch> {
    let loader = Loader::new(dataset.clone(), options).unwrap();
    loader.epoch(epoch, 0).collect::<Result<_, _>>().unwrap()
}

/// Everything on.
fn recipe() -> Augmentation {
    Augmentation {
        random_resized_crop: None,
        pad_crop: 2,
        affine: Some(Affine { degrees: 10.0, translate: 0.1, scale: [0.9, 1.1], shear: 5.0 }),
        flip: 0.5,
        rand_augment: Some(RandAugment::default()),
        colour_jitter: Some(ColourJitter { brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1 }),
        erasing: Some(Erasing::default()),
        mixing: Some(Mixing { mixup: 0.8, cutmix: 1.0, ..Default::default() }),
    }
}

/// Channel-last pixels of `[B][C][H][W]`.
fn channel_last(x: &[f32], channels: usize, area: usize) -> Vec<f32> {
    let value = |i: usize| {
        let (b, p, c) = (i / (channels * area), i / channels % area, i % channels);
        x[(b * channels + c) * area + p]
    };
    (0..x.len()).map(value).collect()
}

#[test]
fn without_augmentation_batches_are_the_data_sets() {
    let dir = tempfile::tempdir().unwrap();
    let (grey, rgb) = (dir.path().join("grey"), dir.path().join("rgb"));
    [&grey, &rgb].into_iter().for_each(|d| fs::create_dir(d).unwrap());
    for (dataset, channels) in [(digits(&grey, 23, 8, pixel), 1), (files(&rgb, 23, 11, 9), 3)] {
        for shuffle in [false, true] {
            let o = LoaderOptions { drop_last: false, shuffle, ..options(5, Augmentation::default()) };
            let loader = Loader::new(dataset.clone(), o).unwrap();
            assert_eq!(loader.batches(), 5);
            // Twice: decoded and from memory.
            for epoch in [7, 7] {
                let batches: Vec<Batch> = loader.epoch(epoch, 0).collect::<Result<_, _>>().unwrap();
                assert_eq!(batches.iter().map(|b| b.labels.len()).collect::<Vec<_>>(), [5, 5, 5, 5, 3]);
                for b in &batches {
                    let (x, y) = dataset.batch(&b.indices).unwrap();
                    assert_eq!((&b.pixels, &b.labels), (&channel_last(&x, channels, 64), &y));
                    let classes = dataset.num_classes();
                    for (row, &label) in b.targets.chunks_exact(classes).zip(&y) {
                        assert!(row.iter().zip(0..).all(|(&t, i)| t == f32::from(u8::from(i == label))));
                    }
                }
                let order: Vec<usize> = batches.iter().flat_map(|b| b.indices.clone()).collect();
                assert_eq!(order.is_sorted(), !shuffle);
                assert_eq!(order.into_iter().collect::<BTreeSet<_>>(), (0..23).collect());
            }
        }
    }
}

#[test]
fn epochs_and_seeds_have_orders_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let d = digits(dir.path(), 50, 4, pixel);
    let order = |seed, epoch| {
        let o = LoaderOptions { seed, ..options(8, Augmentation::default()) };
        let batches = all(&d, o, epoch);
        assert_eq!(batches.len(), 6);
        batches.into_iter().flat_map(|b| b.indices).collect::<Vec<_>>()
    };
    assert_eq!(order(3, 5), order(3, 5));
    assert!(order(3, 5) != order(3, 6) && order(3, 5) != order(4, 5));
    // The last two are not always the same.
    let left: BTreeSet<usize> = (0..30).flat_map(|e| (0..50).filter(move |i| !order(0, e).contains(i))).collect();
    assert!(left.len() > 20);
}

#[test]
fn neither_threads_nor_memory_nor_resuming_matter() {
    let dir = tempfile::tempdir().unwrap();
    let (grey, rgb) = (dir.path().join("grey"), dir.path().join("rgb"));
    [&grey, &rgb].into_iter().for_each(|d| fs::create_dir(d).unwrap());
    let crop = Augmentation { random_resized_crop: Some(RandomResizedCrop::default()), ..recipe() };
    let sets = [(digits(&grey, 41, 8, pixel), recipe()), (files(&rgb, 41, 20, 15), recipe())];
    for (d, augmentation) in sets.iter().cloned().chain([(sets[1].0.clone(), crop)]) {
        let o = LoaderOptions { label_smoothing: 0.1, drop_last: false, seed: 9, ..options(6, augmentation) };
        let expected = all(&d, o.clone(), 2);
        assert_ne!(expected, all(&d, o.clone(), 3));
        for (threads, ahead, cache_bytes) in [(1, 0, 0), (2, 1, 1 << 30), (3, 5, 2000), (16, 100, 1 << 30)] {
            let loader = Loader::new(d.clone(), LoaderOptions { threads, ahead, cache_bytes, ..o.clone() }).unwrap();
            for from in [0, 3, 6, 7, 8, usize::MAX] {
                let batches: Vec<Batch> = loader.epoch(2, from).collect::<Result<_, _>>().unwrap();
                assert_eq!(batches, expected[from.min(7)..], "{threads} threads from {from}");
            }
            // Two at a time.
            let (a, b) = (loader.epoch(2, 0), loader.epoch(2, 0));
            assert!(a.zip(b).zip(&expected).all(|((a, b), e)| a.unwrap() == *e && b.unwrap() == *e));
        }
        for b in &expected {
            assert!(b.pixels.iter().all(|v| v.is_finite() && v.abs() < 8.0));
            for row in b.targets.chunks_exact(d.num_classes()) {
                assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6 && row.iter().all(|&t| t > 0.0));
            }
        }
    }
}

/// The bits of batches, which no machine and no release may change: training is reproducible.
#[test]
fn batches_are_the_same_everywhere() {
    let dir = tempfile::tempdir().unwrap();
    let (grey, rgb) = (dir.path().join("grey"), dir.path().join("rgb"));
    [&grey, &rgb].into_iter().for_each(|d| fs::create_dir(d).unwrap());
    let hash = |d: &Arc<Dataset>, augmentation| {
        let batches = all(d, LoaderOptions { label_smoothing: 0.1, ..options(32, augmentation) }, 5);
        let values = batches.iter().flat_map(|b| b.pixels.iter().chain(&b.targets));
        // FNV-1a, by words.
        values.fold(0xcbf2_9ce4_8422_2325, |h: u64, v| (h ^ u64::from(v.to_bits())).wrapping_mul(0x100_0000_01b3))
    };
    let crop = Augmentation { random_resized_crop: Some(RandomResizedCrop::default()), ..recipe() };
    let (grey, rgb) = (digits(&grey, 64, 12, pixel), files(&rgb, 64, 20, 15));
    let expected = [3_303_243_223_378_971_133, 8_216_939_660_247_320_030, 2_278_643_980_546_534_278];
    assert_eq!([hash(&grey, recipe()), hash(&rgb, recipe()), hash(&rgb, crop)], expected);
}

#[test]
fn decoded_pictures_are_kept_up_to_a_limit() {
    let dir = tempfile::tempdir().unwrap();
    let d = files(dir.path(), 20, 8, 8);
    let loader = |cache_bytes| {
        let o = LoaderOptions { cache_bytes, shuffle: false, ..options(1, Augmentation::default()) };
        Loader::new(d.clone(), o).unwrap()
    };
    // A picture is 192 bytes, and something for the record.
    let loaders = [0, 192 * 10, 1 << 20].map(loader);
    let before = loaders.each_ref().map(|l| l.epoch(0, 0).collect::<Result<Vec<_>, _>>().unwrap());
    fs::remove_dir_all(dir.path().join("0")).unwrap();
    fs::remove_dir_all(dir.path().join("1")).unwrap();
    let kept = loaders.each_ref().map(|l| {
        let mut left = l.epoch(0, 0);
        left.by_ref().take_while(|b| b.is_ok()).count()
    });
    assert!(kept[0] == 0 && (5..10).contains(&kept[1]) && kept[2] == 20, "{kept:?}");
    assert!(loaders[2].epoch(0, 0).map(Result::unwrap).eq(before[0].iter().cloned()));
    let message = loaders[0].epoch(0, 0).next().unwrap().unwrap_err().to_string();
    assert!(message.contains("000.png"), "{message}");
}

#[test]
fn moved_pictures_are_filled_with_the_mean() {
    let dir = tempfile::tempdir().unwrap();
    let d = digits(dir.path(), 100, 8, |_| 200);
    let move_all = RandAugment { ops: 1, magnitude: 10.0, std: 0.0, probability: 1.0 };
    let a = Augmentation { rand_augment: Some(move_all), ..Default::default() };
    let batch = all(&d, options(100, a), 0).remove(0);
    let own = (200.0 / 255.0 - 0.3) / 0.25;
    let moved = batch.pixels.chunks(64).filter(|p| p.iter().any(|v| v.abs() < 0.01) && p.contains(&own));
    // Five of the fourteen operations move pixels.
    assert!((20..55).contains(&moved.count()));
}

/// The values of grey pictures back as 8 bits.
fn bytes(pixels: &[f32]) -> Vec<u8> {
    pixels.iter().map(|v| ((v * 0.25 + 0.3) * 255.0).round() as u8).collect()
}

#[test]
fn flips_and_crops_move_pixels() {
    let dir = tempfile::tempdir().unwrap();
    // Pixel values 1 to 16 in each picture.
    let d = digits(dir.path(), 200, 4, |i| (i % 16) as u8 + 1);
    let straight: Vec<u8> = (1..=16).collect();
    let mirrored = [4, 3, 2, 1, 8, 7, 6, 5, 12, 11, 10, 9, 16, 15, 14, 13];
    for flip in [0.0, 0.3, 1.0] {
        let batch = all(&d, options(200, Augmentation { flip, ..Default::default() }), 0).remove(0);
        let pixels = bytes(&batch.pixels);
        let count = pixels.chunks(16).filter(|p| *p == mirrored).count();
        assert!(pixels.chunks(16).all(|p| p == mirrored || p == straight));
        assert!((count as f64 - 200.0 * flip).abs() <= 25.0 * flip * (1.0 - flip) * 4.0, "{count}");
    }
    let batch = all(&d, options(200, Augmentation { pad_crop: 1, ..Default::default() }), 0).remove(0);
    let crops: Vec<Vec<u8>> = (0..9)
        .map(|k| {
            let (dx, dy) = (k % 3 - 1, k / 3 - 1);
            let at = |x: i32, y: i32| {
                if (0..4).contains(&x) && (0..4).contains(&y) { (y * 4 + x + 1) as u8 } else { 0 }
            };
            (0..16).map(|i| at(i % 4 + dx, i / 4 + dy)).collect()
        })
        .collect();
    let mut seen = [0; 9];
    for p in bytes(&batch.pixels).chunks(16) {
        seen[crops.iter().position(|c| c == p).expect("a crop of the padded picture")] += 1;
    }
    assert!(seen.iter().all(|&n| n > 8), "{seen:?}");
}

#[test]
fn affine_maps_keep_the_middle() {
    let dir = tempfile::tempdir().unwrap();
    // A white block of 4×4 in the middle of 16×16.
    let block = |i: usize| if (6..10).contains(&(i % 16)) && (6..10).contains(&(i / 16 % 16)) { 255 } else { 0 };
    let d = digits(dir.path(), 40, 16, block);
    let mass = |affine| {
        let b = all(&d, options(40, Augmentation { affine: Some(affine), ..Default::default() }), 1).remove(0);
        bytes(&b.pixels).chunks(256).map(|p| p.iter().map(|&v| f64::from(v) / 255.0).sum::<f64>()).collect::<Vec<_>>()
    };
    let near = |masses: Vec<f64>, low: f64, high: f64| {
        assert!(masses.iter().all(|m| (low..=high).contains(m)), "{masses:?}");
    };
    near(mass(Affine::default()), 16.0, 16.0);
    near(mass(Affine { degrees: 180.0, ..Default::default() }), 15.0, 17.0);
    near(mass(Affine { translate: 0.2, shear: 20.0, ..Default::default() }), 15.0, 17.0);
    near(mass(Affine { scale: [2.0, 2.0], ..Default::default() }), 63.0, 65.0);
    near(mass(Affine { scale: [0.5, 0.5], ..Default::default() }), 4.0, 4.0);
}

#[test]
fn erased_parts_have_the_size_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let d = digits(dir.path(), 60, 20, |_| 255);
    let erased = |erasing| {
        let b = all(&d, options(60, Augmentation { erasing: Some(erasing), ..Default::default() }), 0).remove(0);
        let white = (1.0 - 0.3) / 0.25;
        b.pixels.chunks(400).map(|p| p.iter().copied().filter(|v| (v - white).abs() > 1e-4).collect()).collect()
    };
    let always = Erasing { probability: 1.0, area: [0.1, 0.2], ..Default::default() };
    let zero: Vec<Vec<f32>> = erased(Erasing { fill: Filling::Zero, ..always.clone() });
    let noise: Vec<Vec<f32>> = erased(always.clone());
    for (z, n) in zero.iter().zip(&noise) {
        // Sides are rounded.
        assert!((30..=100).contains(&z.len()) && z.len() == n.len() && z.iter().all(|&v| v == 0.0), "{}", z.len());
    }
    let noise = noise.concat();
    let mean = noise.iter().sum::<f32>() / noise.len() as f32;
    let variance = noise.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / noise.len() as f32;
    assert!(mean.abs() < 0.1 && (variance - 1.0).abs() < 0.1, "{mean} {variance}");
    let half: Vec<Vec<f32>> = erased(Erasing { probability: 0.5, ..always.clone() });
    assert!((15..45).contains(&half.iter().filter(|e| !e.is_empty()).count()));
    assert!(erased(Erasing { probability: 0.0, ..always }).iter().all(Vec::is_empty));
}

#[test]
fn mixed_targets_are_the_shares_of_the_pictures() {
    let dir = tempfile::tempdir().unwrap();
    // Picture i is all i, so that a mean tells how much of each partner is in it.
    let d = digits(dir.path(), 10, 8, |i| (i / 64 * 20) as u8);
    for (mixup, cutmix) in [(0.5, 0.0), (0.0, 0.7), (0.3, 0.3)] {
        let (mut blended, mut pasted) = (0, 0);
        for epoch in 0..40 {
            let mixing = Some(Mixing { mixup, cutmix, ..Default::default() });
            let b = all(&d, options(10, Augmentation { mixing, ..Default::default() }), epoch).remove(0);
            let mut shares = BTreeSet::new();
            for i in 0..10 {
                let (own, partner) = (b.labels[i], b.labels[9 - i]);
                let row = &b.targets[i * 10..][..10];
                let share = row[own as usize];
                assert!((share + row[partner as usize] - 1.0).abs() < 1e-6);
                assert!(row.iter().zip(0..).all(|(&t, c)| c == own || c == partner || t == 0.0));
                let values: Vec<f32> = b.pixels[i * 64..][..64].iter().map(|v| (v * 0.25 + 0.3) * 255.0).collect();
                let mean = values.iter().sum::<f32>() / 64.0;
                let expected = share * own as f32 * 20.0 + (1.0 - share) * partner as f32 * 20.0;
                assert!((mean - expected).abs() < 0.01, "{mean} {expected}");
                let mixed = values.iter().any(|v| (v - own as f32 * 20.0).abs() > 0.01);
                let even = values.iter().all(|v| (v - values[0]).abs() < 0.01);
                blended += usize::from(mixed && even && share > 0.0);
                pasted += usize::from(!even);
                shares.insert((share * 1e6).round() as i64);
            }
            assert_eq!(shares.len(), 1, "one share for the whole batch");
        }
        assert_eq!((blended > 0, pasted > 0), (mixup > 0.0, cutmix > 0.0));
    }
    // Never, and an odd batch's middle.
    let mixing = Mixing { mixup: 1.0, probability: 0.0, ..Default::default() };
    let plain = all(&d, options(10, Augmentation::default()), 0);
    assert_eq!(all(&d, options(10, Augmentation { mixing: Some(mixing.clone()), ..Default::default() }), 0), plain);
    let mixing = Some(Mixing { probability: 1.0, ..mixing });
    let b = all(&d, options(9, Augmentation { mixing, ..Default::default() }), 0).remove(0);
    assert_eq!(b.targets[4 * 10 + b.labels[4] as usize], 1.0);
}

#[test]
fn crops_of_large_pictures_fill_the_model() {
    let dir = tempfile::tempdir().unwrap();
    let d = files(dir.path(), 12, 40, 25);
    let crop = Augmentation { random_resized_crop: Some(RandomResizedCrop::default()), ..Default::default() };
    let (a, b) = (all(&d, options(12, crop.clone()), 0).remove(0), all(&d, options(12, crop), 1).remove(0));
    assert_eq!(a.pixels.len(), 12 * 64 * 3);
    assert_ne!(a.pixels, b.pixels);
    // All of the picture, squeezed.
    let whole = RandomResizedCrop { scale: [1.0; 2], ratio: [1.6; 2] };
    let c = Augmentation { random_resized_crop: Some(whole), ..Default::default() };
    let c = all(&d, options(12, c), 0).remove(0);
    let squeezed = image::imageops::resize(
        &image::RgbImage::from_raw(40, 25, d.picture(c.indices[0]).unwrap().pixels().to_vec()).unwrap(),
        8,
        8,
        image::imageops::FilterType::Triangle,
    );
    let mean = [0.3, 0.4, 0.5];
    let std = [0.25, 0.3, 0.2];
    for (i, (&v, &p)) in c.pixels.iter().zip(squeezed.as_raw()).enumerate() {
        assert_eq!(v, (f32::from(p) / 255.0 - mean[i % 3]) / std[i % 3]);
    }
}

#[test]
fn a_damaged_picture_ends_the_epoch_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    files(dir.path(), 40, 8, 8);
    fs::write(dir.path().join("0/006.png"), b"no picture").unwrap();
    let d = Arc::new(Dataset::open(dir.path(), Split::Train, &preparation(8, 3, 2)).unwrap());
    for threads in 1..4 {
        let o = LoaderOptions { threads, shuffle: false, ..options(2, Augmentation::default()) };
        let mut epoch = Loader::new(d.clone(), o).unwrap().epoch(0, 0);
        // It is the seventh of 40, in batch 3.
        for _ in 0..3 {
            epoch.next().unwrap().unwrap();
        }
        let message = epoch.next().unwrap().unwrap_err().to_string();
        assert!(message.contains("006.png") && !message.contains('\n'), "{message}");
        assert!(epoch.next().is_none() && epoch.next().is_none());
    }
}

/// Waits until the process has no thread of this name; the system may list an ended one a moment longer.
#[cfg(target_os = "linux")]
fn wait_for_end(name: &str) {
    let runs = || {
        let mut threads = fs::read_dir("/proc/self/task").unwrap();
        threads.any(|t| fs::read_to_string(t.unwrap().path().join("comm")).is_ok_and(|c| c.trim() == name))
    };
    let start = std::time::Instant::now();
    while runs() {
        assert!(start.elapsed().as_secs() < 20, "{name} still runs");
        std::thread::yield_now();
    }
}

#[test]
fn dropping_an_epoch_ends_its_threads() {
    let dir = tempfile::tempdir().unwrap();
    let d = digits(dir.path(), 2000, 8, pixel);
    // The other tests run in this process too; none has so many threads.
    let o = LoaderOptions { threads: 41, ahead: 1, ..options(4, recipe()) };
    let loader = Loader::new(d.clone(), o).unwrap();
    for taken in [0, 1, 5, 100, 500] {
        let mut epoch = loader.epoch(0, 0);
        assert_eq!(epoch.by_ref().take(taken).filter(|b| b.is_ok()).count(), taken);
        drop(epoch);
        #[cfg(target_os = "linux")]
        wait_for_end("loader 40");
    }
    drop(loader);
    assert_eq!(Arc::strong_count(&d), 1, "no thread holds the data set");
}

#[test]
fn unusable_options_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let d = digits(dir.path(), 10, 4, pixel);
    let plain = options(5, Augmentation::default());
    for o in [
        LoaderOptions { batch: 0, ..plain.clone() },
        LoaderOptions { batch: 11, ..plain.clone() },
        LoaderOptions { threads: 0, ..plain.clone() },
        LoaderOptions { threads: 65, ..plain.clone() },
        LoaderOptions { label_smoothing: f64::NAN, ..plain.clone() },
        LoaderOptions { label_smoothing: 1.5, ..plain.clone() },
    ] {
        assert!(Loader::new(d.clone(), o).is_err());
    }
    let all = LoaderOptions { batch: usize::MAX, drop_last: false, ahead: usize::MAX, ..plain };
    assert_eq!(Loader::new(d.clone(), all).unwrap().epoch(0, 0).count(), 1);
    for (json, key) in [
        (r#"{"flip": -0.1}"#, "flip"),
        (r#"{"pad_crop": 5000}"#, "pad_crop"),
        (r#"{"affine": {"shear": 90}}"#, "affine.shear"),
        (r#"{"affine": {"scale": [0, 1]}}"#, "affine.scale"),
        (r#"{"affine": {"scale": [2, 1]}}"#, "affine.scale"),
        (r#"{"random_resized_crop": {"ratio": [-1, 1]}}"#, "random_resized_crop.ratio"),
        (r#"{"colour_jitter": {"hue": 0.6}}"#, "colour_jitter.hue"),
        (r#"{"rand_augment": {"magnitude": 11}}"#, "rand_augment.magnitude"),
        (r#"{"erasing": {"area": [0.1, 1.5]}}"#, "erasing.area"),
        (r#"{"mixing": {"mixup": -1}}"#, "mixing.mixup"),
    ] {
        let augmentation: Augmentation = serde_json::from_str(json).unwrap();
        let message = augmentation.validate().unwrap_err().to_string();
        assert!(message.contains(&format!("`augmentation.{key}`")), "{message}");
        assert!(Loader::new(d.clone(), options(5, augmentation)).is_err());
    }
}

#[test]
fn configurations_are_read_and_written() {
    let none: Augmentation = serde_json::from_str("{}").unwrap();
    assert_eq!(none, Augmentation::default());
    assert_eq!(serde_json::to_string(&none).unwrap(), r#"{"pad_crop":0,"flip":0.0}"#);
    let text = r#"{"rand_augment": {}, "erasing": {"fill": "zero"}, "mixing": {"cutmix": 1}, "pad_crop": 4}"#;
    let some: Augmentation = serde_json::from_str(text).unwrap();
    assert_eq!(some.rand_augment, Some(RandAugment { ops: 2, magnitude: 9.0, std: 0.5, probability: 0.5 }));
    assert_eq!((some.erasing.clone().unwrap().fill, some.pad_crop, some.affine.clone()), (Filling::Zero, 4, None));
    for a in [some, recipe()] {
        a.validate().unwrap();
        assert_eq!(serde_json::from_str::<Augmentation>(&serde_json::to_string(&a).unwrap()).unwrap(), a);
    }
    for text in [r#"{"flop": 1}"#, r#"{"erasing": {"fil": "zero"}}"#, r#"{"erasing": {"fill": "red"}}"#] {
        assert!(serde_json::from_str::<Augmentation>(text).is_err());
    }
}
