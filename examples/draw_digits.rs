//! Draws the sample pictures of `examples/images`: the ten digits in strokes of a round, slightly unsteady brush.
//!
//! `cargo run --example draw_digits [FOLDER]`; it always draws the same pictures.

use std::f32::consts::PI;
use std::path::PathBuf;

use image::{GrayImage, Luma};

type Point = [f32; 2];

/// Part of an ellipse around (`cx`, `cy`), from angle `from` to `to` in degrees; 0 is right and 90 is down.
fn arc(cx: f32, cy: f32, rx: f32, ry: f32, from: f32, to: f32) -> Vec<Point> {
    let n = 48;
    let at = |i: usize| (from + (to - from) * i as f32 / n as f32) * PI / 180.0;
    (0..=n).map(|i| [cx + rx * at(i).cos(), cy + ry * at(i).sin()]).collect()
}

/// A cubic Bézier curve.
fn curve(p: [Point; 4]) -> Vec<Point> {
    let at = |t: f32, k: usize| {
        let s = 1.0 - t;
        s * s * s * p[0][k] + 3.0 * s * s * t * p[1][k] + 3.0 * s * t * t * p[2][k] + t * t * t * p[3][k]
    };
    (0..=32).map(|i| i as f32 / 32.0).map(|t| [at(t, 0), at(t, 1)]).collect()
}

/// A straight stroke, in steps short enough for the brush to wobble.
fn line(a: Point, b: Point) -> Vec<Point> {
    (0..=16).map(|i| i as f32 / 16.0).map(|t| [a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t]).collect()
}

/// The strokes of a digit, in a box of about 1 × 1, y down.
fn strokes(digit: usize) -> Vec<Vec<Point>> {
    match digit {
        0 => vec![arc(0.5, 0.5, 0.34, 0.5, -75.0, 292.0)],
        1 => vec![line([0.54, 0.0], [0.48, 1.0])],
        2 => vec![
            [
                arc(0.46, 0.28, 0.31, 0.28, 195.0, 375.0),
                curve([[0.76, 0.35], [0.72, 0.6], [0.4, 0.8], [0.12, 0.96]]),
                curve([[0.12, 0.96], [0.4, 0.9], [0.6, 0.98], [0.88, 0.94]]),
            ]
            .concat(),
        ],
        3 => vec![[arc(0.44, 0.25, 0.31, 0.25, 205.0, 440.0), arc(0.44, 0.74, 0.36, 0.26, -80.0, 150.0)].concat()],
        4 => vec![
            [line([0.2, 0.04], [0.14, 0.55]), line([0.14, 0.55], [0.84, 0.5])].concat(),
            line([0.74, 0.0], [0.66, 1.0]),
        ],
        5 => vec![
            [line([0.32, 0.05], [0.24, 0.45]), arc(0.42, 0.7, 0.35, 0.29, -122.0, 145.0)].concat(),
            line([0.32, 0.05], [0.82, 0.0]),
        ],
        6 => vec![
            [
                curve([[0.66, 0.0], [0.38, 0.15], [0.16, 0.45], [0.18, 0.74]]),
                arc(0.46, 0.74, 0.28, 0.25, 180.0, -150.0),
            ]
            .concat(),
        ],
        7 => vec![
            [
                curve([[0.12, 0.08], [0.4, 0.08], [0.6, 0.06], [0.84, 0.03]]),
                curve([[0.84, 0.03], [0.72, 0.3], [0.5, 0.65], [0.42, 1.0]]),
            ]
            .concat(),
        ],
        8 => vec![
            [
                curve([[0.76, 0.14], [0.6, -0.06], [0.22, -0.02], [0.24, 0.24]]),
                curve([[0.24, 0.24], [0.26, 0.5], [0.78, 0.5], [0.72, 0.8]]),
                curve([[0.72, 0.8], [0.66, 1.06], [0.18, 1.04], [0.22, 0.76]]),
                curve([[0.22, 0.76], [0.28, 0.5], [0.8, 0.46], [0.76, 0.14]]),
            ]
            .concat(),
        ],
        _ => vec![
            arc(0.44, 0.27, 0.29, 0.26, -20.0, -380.0),
            curve([[0.74, 0.2], [0.74, 0.5], [0.64, 0.75], [0.58, 1.0]]),
        ],
    }
}

/// How much ink (0 to 255) each pixel of a w×h canvas gets from a digit `height` pixels high, in the middle.
fn draw(digit: usize, w: u32, h: u32, height: f32, brush: f32) -> GrayImage {
    let wobble = |x: f32, seed: f32| (x * 7.3 + seed).sin() * 0.5 + (x * 12.9 + seed * 2.1).sin() * 0.5;
    let seed = digit as f32 * 1.7;
    let length = height - brush;
    let strokes: Vec<Vec<Point>> = strokes(digit)
        .iter()
        .map(|s| {
            let shake = |[x, y]: Point| {
                let slant = 0.1 * (0.5 - y);
                [x + slant + 0.012 * wobble(y, seed), y + 0.012 * wobble(x, seed + 1.0)].map(|v| v * length)
            };
            s.iter().copied().map(shake).collect()
        })
        .collect();
    let render = |dx: f32, dy: f32| {
        GrayImage::from_fn(w, h, |px, py| {
            const GRID: u32 = 4;
            let mut covered = 0.0;
            for i in 0..GRID * GRID {
                let x = px as f32 + ((i % GRID) as f32 + 0.5) / GRID as f32 - dx;
                let y = py as f32 + ((i / GRID) as f32 + 0.5) / GRID as f32 - dy;
                let mut best = 0.0f32;
                for s in &strokes {
                    for (k, pair) in s.windows(2).enumerate() {
                        let radius = brush * (0.5 + 0.07 * wobble(k as f32 * 0.02, seed));
                        best = best.max((radius + 0.25 - distance([x, y], pair[0], pair[1])) * 2.0);
                    }
                }
                covered += best.min(1.0);
            }
            Luma([(covered / (GRID * GRID) as f32 * 255.0).round() as u8])
        })
    };
    // As in MNIST, the centre of mass goes to pixel 14 of 28 (counted from 0), by whole pixels.
    let (cx, cy) = (w as f32 / 2.0, h as f32 / 2.0);
    let (dx, dy) = (cx - length / 2.0, cy - length / 2.0);
    let first = render(dx, dy);
    let (mut mass, mut mx, mut my) = (0.0, 0.0, 0.0);
    for (x, y, p) in first.enumerate_pixels() {
        let m = f32::from(p.0[0]);
        (mass, mx, my) = (mass + m, mx + m * x as f32, my + m * y as f32);
    }
    render(dx + (cx - mx / mass).round(), dy + (cy - my / mass).round())
}

/// The distance of `p` from the segment `a`–`b`.
fn distance(p: Point, a: Point, b: Point) -> f32 {
    let (d, v) = ([b[0] - a[0], b[1] - a[1]], [p[0] - a[0], p[1] - a[1]]);
    let t = ((v[0] * d[0] + v[1] * d[1]) / (d[0] * d[0] + d[1] * d[1]).max(1e-12)).clamp(0.0, 1.0);
    (v[0] - t * d[0]).hypot(v[1] - t * d[1])
}

/// Ink on paper: dark on light.
fn on_paper(ink: &GrayImage) -> GrayImage {
    GrayImage::from_fn(ink.width(), ink.height(), |x, y| {
        let ink = f32::from(ink.get_pixel(x, y).0[0]) / 255.0;
        Luma([(246.0 - ink * 205.0).round() as u8])
    })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args_os()
        .nth(1)
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/images")), PathBuf::from);
    std::fs::create_dir_all(&folder)?;
    let names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];
    for (digit, name) in names.iter().enumerate() {
        draw(digit, 28, 28, 20.0, 2.4).save(folder.join(format!("{name}.png")))?;
    }
    on_paper(&draw(3, 200, 240, 150.0, 14.0)).save(folder.join("3-dark-on-light.png"))?;
    on_paper(&draw(7, 240, 200, 110.0, 11.0)).save(folder.join("7-dark-on-light.png"))?;
    on_paper(&draw(5, 200, 240, 170.0, 20.0)).save(folder.join("5-dark-on-light.jpg"))?;
    on_paper(&draw(2, 100, 120, 80.0, 8.0)).save(folder.join("2-dark-on-light.bmp"))?;
    Ok(())
}
