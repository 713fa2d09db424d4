//! A run's curves as one SVG picture.
//!
//! Written by hand, because `plotters` (last release September 2024) fixes colours, fonts and text positions as
//! attributes, without the classes, style sheet, title and description that both colour schemes and screen readers need.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::metrics::EpochMetrics;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 640.0;

/// Blue and vermilion are Okabe and Ito's, which the colour-blind tell apart; training is dashed besides.
const STYLE: &str = "\
text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;fill:#24292f;font-variant-numeric:tabular-nums}
.title{font-size:19px;font-weight:600}.heading{font-size:14px;font-weight:600}.quiet{fill:#57606a}
.page{fill:#fff}.grid{stroke:#d8dee4;stroke-width:1}.axis{stroke:#8c959f;stroke-width:1}
polyline,.key{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.train{stroke:#0072b2}polyline.train,.key.train{stroke-dasharray:5 4}.test{stroke:#d55e00}.lr{stroke:#0072b2}
.layer{stroke:#6e7781;stroke-width:1;stroke-opacity:.4}.high{stroke:#aa3377;stroke-width:1.5}
.low{stroke:#00805c;stroke-width:1.5}.mean{stroke:#24292f;stroke-width:3}
circle{stroke:none;fill:#24292f}circle.train,circle.lr{fill:#0072b2}circle.test{fill:#d55e00}
circle.layer{fill:#6e7781;fill-opacity:.5}circle.high{fill:#aa3377}circle.low{fill:#00805c}
.ring{fill:#fff;stroke:#d55e00;stroke-width:2}.note{font-weight:600;paint-order:stroke;stroke:#fff;stroke-width:4px}
@media(prefers-color-scheme:dark){
text{fill:#e6edf3}.quiet{fill:#9da7b3}.page{fill:#0d1117}.grid{stroke:#262c36}.axis{stroke:#6e7681}
.train,.lr{stroke:#56b4e9}.test{stroke:#f0a030}.layer{stroke:#9da7b3}.high{stroke:#e78ac3}.low{stroke:#2fc48d}
.mean{stroke:#e6edf3}circle{fill:#e6edf3}circle.train,circle.lr{fill:#56b4e9}circle.test{fill:#f0a030}
circle.layer{fill:#9da7b3}circle.high{fill:#e78ac3}circle.low{fill:#2fc48d}
.ring{fill:#0d1117;stroke:#f0a030}.note{stroke:#0d1117}}
";

/// Loss, accuracy, learning rate and firing rates over the epochs, as a picture of 960×640 that needs nothing else, in
/// light or dark as the reader prefers. Values that are no numbers leave gaps.
pub fn svg(title: &str, epochs: &[EpochMetrics]) -> String {
    let column = |value: fn(&EpochMetrics) -> f64| -> Vec<f64> { epochs.iter().map(|e| drawable(value(e))).collect() };
    let xs = column(|e| e.epoch as f64);
    let percent = |values: Vec<f64>| -> Vec<f64> { values.into_iter().map(|v| 100.0 * v).collect() };
    let (train_loss, test_loss) = (column(|e| e.train_loss), column(|e| e.test_loss));
    let (train_accuracy, test_accuracy) = (percent(column(|e| e.train_accuracy)), percent(column(|e| e.test_accuracy)));
    let lr = column(|e| e.lr);
    let mean = percent(column(|e| e.firing_rate));
    let layers = Layers::of(epochs);
    let best = best(&test_accuracy).map(|i| (i, format!("{:.2} % in epoch {}", test_accuracy[i], epochs[i].epoch)));

    let mut out = String::new();
    let summary = match epochs.len() {
        0 => "no epochs yet".to_owned(),
        1 => "1 epoch".to_owned(),
        n => format!("{n} epochs"),
    };
    let with_best = match &best {
        Some((_, text)) => format!("{summary}, best test accuracy {text}"),
        None => summary,
    };
    put(
        &mut out,
        format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
             height=\"{HEIGHT}\" role=\"img\" aria-labelledby=\"title desc\">\n<title id=\"title\">{}</title>\n",
            escaped(title)
        ),
    );
    let mut description = format!("Training curves: {with_best}.");
    let last = [
        ("Training loss", &train_loss, ""),
        ("Test loss", &test_loss, ""),
        ("Training accuracy", &train_accuracy, " %"),
        ("Test accuracy", &test_accuracy, " %"),
        ("Learning rate", &lr, ""),
        ("Mean firing rate", &mean, " %"),
    ];
    for (what, values, unit) in last {
        if let Some(v) = latest(values) {
            put(&mut description, format_args!(" {what} {}{unit}.", short(v)));
        }
    }
    if !layers.silent.is_empty() {
        let names: Vec<_> = layers.silent.iter().take(20).map(|&l| shortened(layers.names[l], 40)).collect();
        put(&mut description, format_args!(" Silent layers ({}): {}.", layers.silent.len(), names.join(", ")));
    }
    put(&mut out, format_args!("<desc id=\"desc\">{}</desc>\n<style>{STYLE}</style>\n", escaped(&description)));
    put(&mut out, format_args!("<rect class=\"page\" width=\"{WIDTH}\" height=\"{HEIGHT}\"/>\n"));
    text(&mut out, 24.0, 36.0, "title", "start", shortened(title, 80));
    text(&mut out, 24.0, 57.0, "quiet", "start", with_best);

    let x = Axis::epochs(&xs);
    let both = |train: &[f64], test: &[f64], most| Axis::of(train.iter().chain(test), false, most);

    let y = both(&train_loss, &test_loss, f64::INFINITY);
    let loss = Panel { left: 72.0, top: 108.0, width: 388.0, height: 200.0, x, y };
    loss.frame(&mut out, "Loss", decimal);
    loss.line(&mut out, "train", &xs, &train_loss, "training loss");
    loss.line(&mut out, "test", &xs, &test_loss, "test loss");
    loss.keys(&mut out, &train_loss, &test_loss, "");

    let y = both(&train_accuracy, &test_accuracy, 100.0);
    let accuracy = Panel { left: 548.0, y, ..loss };
    accuracy.frame(&mut out, "Accuracy", |v, step| format!("{} %", decimal(v, step)));
    accuracy.line(&mut out, "train", &xs, &train_accuracy, "training accuracy");
    accuracy.line(&mut out, "test", &xs, &test_accuracy, "test accuracy");
    accuracy.keys(&mut out, &train_accuracy, &test_accuracy, " %");
    if let Some((i, label)) = &best {
        accuracy.mark(&mut out, xs[*i], test_accuracy[*i], label);
    }

    let rate = Panel { left: 72.0, top: 388.0, width: 248.0, y: Axis::of(&lr, true, f64::INFINITY), ..loss };
    rate.frame(&mut out, "Learning rate", |v, _| scientific(v));
    rate.line(&mut out, "lr", &xs, &lr, "learning rate");

    let y = Axis::of(layers.rates.iter().flatten().chain(&mean), true, 100.0);
    let firing = Panel { left: 408.0, width: 312.0, y, ..rate };
    firing.frame(&mut out, "Firing rate by layer", |v, step| format!("{} %", decimal(v, step)));
    let special = [layers.high, layers.low].map(|l| l.map(|(l, _)| l));
    for (l, (name, rates)) in layers.names.iter().zip(&layers.rates).enumerate() {
        if !special.contains(&Some(l)) {
            firing.line(&mut out, "layer", &xs, rates, name);
        }
    }
    for (class, l) in ["high", "low"].into_iter().zip(special) {
        if let Some(l) = l {
            firing.line(&mut out, class, &xs, &layers.rates[l], layers.names[l]);
        }
    }
    firing.line(&mut out, "mean", &xs, &mean, "mean of all layers");
    layers.legend(&mut out, firing.left + firing.width + 20.0, firing.top + 4.0, latest(&mean));
    out.push_str("</svg>\n");
    out
}

/// The layers' firing rates in percent, and which of them the legend names.
struct Layers<'a> {
    names: Vec<&'a str>,
    /// By layer, then by epoch.
    rates: Vec<Vec<f64>>,
    /// The layer that fires most, and the one of those that fire at all that fires least, with their latest rates.
    high: Option<(usize, f64)>,
    low: Option<(usize, f64)>,
    silent: Vec<usize>,
}

impl<'a> Layers<'a> {
    fn of(epochs: &'a [EpochMetrics]) -> Layers<'a> {
        let names: BTreeSet<&str> = epochs.iter().flat_map(|e| e.firing_rates.keys().map(String::as_str)).collect();
        let names: Vec<&str> = names.into_iter().collect();
        let rate = |e: &EpochMetrics, name: &str| e.firing_rates.get(name).map_or(f64::NAN, |&r| 100.0 * drawable(r));
        let rates: Vec<Vec<f64>> = names.iter().map(|n| epochs.iter().map(|e| rate(e, n)).collect()).collect();
        let now = || rates.iter().enumerate().filter_map(|(l, r)| Some((l, latest(r)?)));
        let high = now().filter(|&(_, r)| r != 0.0).max_by(|a, b| a.1.total_cmp(&b.1));
        let low = now().filter(|&(_, r)| r != 0.0).min_by(|a, b| a.1.total_cmp(&b.1));
        let low = low.filter(|l| Some(l.0) != high.map(|h| h.0));
        let silent = now().filter(|&(_, r)| r == 0.0).map(|(l, _)| l).collect();
        Layers { names, rates, high, low, silent }
    }

    fn legend(&self, out: &mut String, x: f64, mut y: f64, mean: Option<f64>) {
        const NAMED: usize = 4;
        let mut row = |class: &str, what: String, name: Option<&str>| {
            key(out, x, y - 4.0, class);
            text(out, x + 30.0, y, "", "start", what);
            if let Some(name) = name {
                y += 16.0;
                text(out, x + 30.0, y, "quiet", "start", shortened(name, 24));
            }
            y += 24.0;
        };
        if let Some(mean) = mean {
            row("mean", format!("mean {} %", short(mean)), None);
        }
        for (class, what, layer) in [("high", "highest", self.high), ("low", "lowest", self.low)] {
            if let Some((l, rate)) = layer {
                row(class, format!("{what} {} %", short(rate)), Some(self.names[l]));
            }
        }
        let others = self.names.len().saturating_sub([self.high, self.low].iter().flatten().count());
        if others > 0 {
            row("layer", format!("{others} other{}", if others == 1 { "" } else { "s" }), None);
        }
        if !self.silent.is_empty() {
            text(out, x, y, "", "start", format!("{} silent now:", self.silent.len()));
            let more = self.silent.len() - self.silent.len().min(NAMED);
            for &l in self.silent.iter().take(NAMED) {
                y += 16.0;
                text(out, x, y, "quiet", "start", shortened(self.names[l], 28));
            }
            if more > 0 {
                text(out, x, y + 16.0, "quiet", "start", format!("and {more} more"));
            }
        }
    }
}

/// A range of values with round steps, neither of which is 0.
#[derive(Clone, Copy)]
struct Axis {
    low: f64,
    high: f64,
    step: f64,
}

impl Axis {
    /// The axis of these values, in whole steps, but without empty room above `most`; `None` if there is nothing to draw.
    fn of<'a>(values: impl IntoIterator<Item = &'a f64>, from_zero: bool, most: f64) -> Option<Axis> {
        let (mut low, mut high) = range(values)?;
        let most = if high <= most { most } else { f64::INFINITY };
        if from_zero {
            (low, high) = (low.min(0.0), high.max(0.0));
        }
        let size = low.abs().max(high.abs());
        if size < 1e-20 {
            (low, high) = (0.0, 1.0);
        } else if high - low < 1e-6 * size {
            (low, high) = (low - 0.1 * size, high + 0.1 * size);
        }
        let step = round_step((high - low) / 5.0);
        Some(Axis { low: (low / step).floor() * step, high: ((high / step).ceil() * step).min(most), step })
    }

    /// The axis of the epochs: no wider than they are, in whole numbers.
    fn epochs(xs: &[f64]) -> Option<Axis> {
        let (low, high) = range(xs)?;
        match high > low {
            true => Some(Axis { low, high, step: round_step((high - low) / 6.0).max(1.0) }),
            false => {
                let room = 0.5f64.max(1e-3 * low);
                Some(Axis { low: low - room, high: high + room, step: 2.0 * room })
            }
        }
    }

    /// How far along a value lies, 0 to 1.
    fn part(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    /// Multiples of the step.
    fn ticks(&self) -> impl Iterator<Item = f64> {
        let first = (self.low / self.step - 1e-6).ceil();
        let count = ((self.high / self.step + 1e-6).floor() - first).clamp(0.0, 20.0) as usize;
        let step = self.step;
        (0..=count).map(move |i| (first + i as f64) * step)
    }
}

/// The smallest of 1, 2 and 5 times powers of ten that is no smaller.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0].map(|f| f * power).into_iter().find(|s| *s >= least * (1.0 - 1e-9)).unwrap_or(10.0 * power)
}

/// Where one chart lies, and its axes.
#[derive(Clone, Copy)]
struct Panel {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
    x: Option<Axis>,
    y: Option<Axis>,
}

impl Panel {
    fn frame(&self, out: &mut String, heading: &str, label: impl Fn(f64, f64) -> String) {
        let Panel { left, top, width, height, .. } = *self;
        let (right, bottom) = (left + width, top + height);
        text(out, left - 48.0, top - 18.0, "heading", "start", heading);
        if let Some(axis) = self.y {
            for tick in axis.ticks() {
                let y = bottom - height * axis.part(tick);
                rule(out, "grid", [left, y, right, y]);
                text(out, left - 8.0, y + 4.0, "quiet", "end", label(tick, axis.step));
            }
        }
        if let Some(axis) = self.x {
            for tick in axis.ticks() {
                let x = left + width * axis.part(tick);
                rule(out, "axis", [x, bottom, x, bottom + 4.0]);
                text(out, x, bottom + 18.0, "quiet", "middle", decimal(tick, 1.0));
            }
        }
        rule(out, "axis", [left, bottom, right, bottom]);
        text(out, right, bottom + 34.0, "quiet", "end", "epoch");
        if self.x.is_none() || self.y.is_none() {
            text(out, left + width / 2.0, top + height / 2.0, "quiet", "middle", "nothing to show yet");
        }
    }

    fn point(&self, x: f64, y: f64) -> Option<(f64, f64)> {
        let (x, y) = (self.x?.part(x), self.y?.part(y));
        Some((self.left + self.width * x, self.top + self.height * (1.0 - y)))
    }

    /// A line through the values that there are, broken where there are none; what stands alone is a dot.
    fn line(&self, out: &mut String, class: &str, xs: &[f64], ys: &[f64], name: &str) {
        let name = escaped(&shortened(name, 80));
        let points: Vec<_> =
            xs.iter().zip(ys).map(|(&x, &y)| if y.is_nan() { None } else { self.point(x, y) }).collect();
        for run in points.split(Option::is_none) {
            match run {
                [] => {}
                [Some((x, y))] => put(
                    out,
                    format_args!(
                        "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"><title>{name}</title></circle>\n"
                    ),
                ),
                run => {
                    put(out, format_args!("<polyline class=\"{class}\" points=\""));
                    for (i, (x, y)) in run.iter().flatten().enumerate() {
                        put(out, format_args!("{}{x:.1},{y:.1}", if i == 0 { "" } else { " " }));
                    }
                    put(out, format_args!("\"><title>{name}</title></polyline>\n"));
                }
            }
        }
    }

    /// What the two lines are, and their latest values, beside the heading.
    fn keys(&self, out: &mut String, train: &[f64], test: &[f64], unit: &str) {
        let (right, y) = (self.left + self.width, self.top - 18.0);
        for (class, values, x) in [("train", train, right - 244.0), ("test", test, right - 116.0)] {
            key(out, x, y - 4.0, class);
            let value = latest(values).map_or(String::new(), |v| format!(" {}{unit}", short(v)));
            text(out, x + 30.0, y, "", "start", format!("{class}{value}"));
        }
    }

    /// A ring around a point, and a label where there is room for it.
    fn mark(&self, out: &mut String, x: f64, y: f64, label: &str) {
        let Some((px, py)) = self.point(x, y) else { return };
        put(out, format_args!("<circle class=\"ring\" cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"4.5\"/>\n"));
        let (dx, anchor) = match (px - self.left) / self.width {
            p if p < 0.25 => (-4.0, "start"),
            p if p > 0.75 => (4.0, "end"),
            _ => (0.0, "middle"),
        };
        let dy = if py + 40.0 < self.top + self.height { 24.0 } else { -14.0 };
        text(out, px + dx, py + dy, "note", anchor, label);
    }
}

fn put(out: &mut String, text: std::fmt::Arguments) {
    // A string takes everything.
    let _ = out.write_fmt(text);
}

fn text(out: &mut String, x: f64, y: f64, class: &str, anchor: &str, content: impl AsRef<str>) {
    let content = escaped(content.as_ref());
    put(
        out,
        format_args!("<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{content}</text>\n"),
    );
}

fn rule(out: &mut String, class: &str, [x1, y1, x2, y2]: [f64; 4]) {
    put(out, format_args!("<path class=\"{class}\" d=\"M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}\"/>\n"));
}

fn key(out: &mut String, x: f64, y: f64, class: &str) {
    rule(out, &format!("key {class}"), [x, y, x + 22.0, y]);
}

/// The value, or NaN for one that no picture can show.
fn drawable(value: f64) -> f64 {
    if value.abs() < 1e30 { value } else { f64::NAN }
}

fn latest(values: &[f64]) -> Option<f64> {
    values.iter().rev().copied().find(|v| !v.is_nan())
}

/// Where the largest value is first.
fn best(values: &[f64]) -> Option<usize> {
    let known = values.iter().enumerate().filter(|(_, v)| !v.is_nan());
    known.reduce(|a, b| if b.1 > a.1 { b } else { a }).map(|(i, _)| i)
}

fn range<'a>(values: impl IntoIterator<Item = &'a f64>) -> Option<(f64, f64)> {
    let known = values.into_iter().filter(|v| !v.is_nan());
    known.fold(None, |range, &v| {
        let (low, high) = range.unwrap_or((v, v));
        Some((v.min(low), v.max(high)))
    })
}

/// A tick's label, with the decimals that its step has.
fn decimal(value: f64, step: f64) -> String {
    let decimals = (-step.log10() - 1e-9).ceil();
    if decimals > 4.0 || value.abs() >= 1e6 {
        return scientific(value);
    }
    // Adding 0 makes a zero of a negative one.
    format!("{:.*}", decimals.max(0.0) as usize, value + 0.0)
}

/// Three digits of a value.
fn short(value: f64) -> String {
    if value == 0.0 || !(1e-2..1e5).contains(&value.abs()) {
        return scientific(value);
    }
    let decimals = (2.0 - value.abs().log10().floor()).max(0.0);
    format!("{value:.*}", decimals as usize)
}

/// Three digits of a value and its power of ten, without zeros at the end.
fn scientific(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let text = format!("{value:.2e}");
    match text.split_once('e') {
        Some((digits, power)) => format!("{}e{power}", digits.trim_end_matches('0').trim_end_matches('.')),
        None => text,
    }
}

/// A name of at most `most` characters, cut in the middle: layers begin alike and differ at the end.
fn shortened(name: &str, most: usize) -> String {
    let chars: Vec<char> = name.chars().collect();
    if chars.len() <= most {
        return name.to_owned();
    }
    let (head, tail) = ((most - 1) / 2, most / 2);
    chars[..head].iter().chain(&['…']).chain(&chars[chars.len() - tail..]).collect()
}

/// Text as XML allows it, without controls and what turns the direction of what follows.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control()
                || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{fffe}'..='\u{ffff}') =>
            {
                out.push('\u{fffd}')
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(epochs: u64) -> Vec<EpochMetrics> {
        let epoch = |epoch: u64| {
            let t = epoch as f64 / epochs as f64;
            EpochMetrics {
                epoch,
                lr: 1e-3 * (1.0 - t),
                train_loss: 2.0 - t,
                train_accuracy: 0.5 * t,
                test_loss: 2.1 - t,
                test_accuracy: 0.6 * t,
                firing_rate: 0.2,
                firing_rates: [("fast", 0.4), ("middle", 0.2), ("slow", 0.1 + 0.01 * t), ("silent", 0.0)]
                    .map(|(name, rate)| (name.to_owned(), rate))
                    .into(),
                ..EpochMetrics::default()
            }
        };
        (1..=epochs).map(epoch).collect()
    }

    /// The value of every attribute of that name, in order.
    fn attributes<'a>(svg: &'a str, name: &str) -> Vec<&'a str> {
        let start = format!(" {name}=\"");
        svg.split(&start).skip(1).map(|rest| rest.split('"').next().unwrap()).collect()
    }

    /// The points of the lines of a class.
    fn lines<'a>(svg: &'a str, class: &str) -> Vec<Vec<&'a str>> {
        let start = format!("<polyline class=\"{class}\" points=\"");
        let points = svg.split(&start).skip(1).map(|rest| rest.split('"').next().unwrap());
        points.map(|p| p.split(' ').collect()).collect()
    }

    /// The tags are nested and closed, attributes are quoted, `&` begins an entity, and every number is on the page.
    fn check(svg: &str) {
        let mut open = Vec::new();
        for (i, piece) in svg.split('<').enumerate().skip(1) {
            let (tag, text) = piece.split_once('>').unwrap_or_else(|| panic!("tag {i} has no end: {piece}"));
            assert!(!text.contains('>'), "{text}");
            match tag.strip_prefix('/') {
                Some(name) => assert_eq!(open.pop(), Some(name), "{piece}"),
                None if tag.ends_with('/') => {}
                None => open.push(tag.split(' ').next().unwrap()),
            }
            assert!(tag.matches('"').count() % 2 == 0, "{tag}");
            for entity in piece.split('&').skip(1) {
                assert!(["amp;", "lt;", "gt;", "quot;"].iter().any(|e| entity.starts_with(e)), "{piece}");
            }
            assert!(!piece.chars().any(|c| c.is_control() && c != '\n'), "{piece:?}");
        }
        assert!(open.is_empty(), "{open:?}");
        let numbers = ["x", "y", "cx", "cy", "points", "d"].iter().flat_map(|name| attributes(svg, name));
        for number in numbers.flat_map(|n| n.split([' ', ',', 'M', 'L'])).filter(|n| !n.is_empty()) {
            let value: f64 = number.parse().unwrap_or_else(|_| panic!("{number:?} is no number"));
            assert!((0.0..=WIDTH).contains(&value), "{value}");
        }
    }

    #[test]
    fn draws_every_line_and_point() {
        for (epochs, points) in [(2, 2), (500, 500)] {
            let svg = svg("a run", &run(epochs));
            check(&svg);
            for (class, count) in
                [("train", 2), ("test", 2), ("lr", 1), ("mean", 1), ("high", 1), ("low", 1), ("layer", 2)]
            {
                let lines = lines(&svg, class);
                assert_eq!(lines.len(), count, "{class}");
                assert!(lines.iter().all(|l| l.len() == points), "{class}");
            }
        }
    }

    #[test]
    fn names_the_best_epoch_and_the_extreme_layers() {
        let mut epochs = run(10);
        epochs[6].test_accuracy = 0.9312;
        let svg = svg("a run", &epochs);
        assert_eq!(svg.matches("93.12 % in epoch 7").count(), 3);
        for text in
            ["highest 40.0 %", ">fast</text>", "lowest 11.0 %", ">slow</text>", "1 silent now:", ">silent</text>"]
        {
            assert_eq!(svg.matches(text).count(), 1, "{text}");
        }
        assert!(svg.contains("Silent layers (1): silent."));
    }

    #[test]
    fn few_epochs_are_dots() {
        let none = svg("nothing", &[]);
        check(&none);
        assert_eq!((none.matches("nothing to show yet").count(), lines(&none, "train").len()), (4, 0));
        let one = svg("one", &run(1));
        check(&one);
        assert_eq!((one.matches("<circle class=\"train\"").count(), one.matches("<polyline").count()), (2, 0));
    }

    #[test]
    fn what_is_no_number_is_a_gap() {
        let mut epochs = run(10);
        epochs[3].train_loss = f64::NAN;
        epochs[8].train_loss = f64::INFINITY;
        epochs[2].firing_rates.remove("fast");
        let svg = svg("gaps", &epochs);
        check(&svg);
        let lengths: Vec<_> = lines(&svg, "train").iter().map(Vec::len).collect();
        assert_eq!(lengths, [3, 4, 10]);
        assert_eq!(svg.matches("<circle class=\"train\"").count(), 1);
        assert_eq!(lines(&svg, "high").iter().map(Vec::len).collect::<Vec<_>>(), [2, 7]);
    }

    #[test]
    fn escapes_hostile_names() {
        let name = "</title><script>alert(\"&\")</script>\u{0}\u{202e}";
        let mut epochs = run(3);
        epochs[1].firing_rates.insert(name.repeat(1000), 0.9);
        epochs[1].firing_rates.insert("é".repeat(1000), 0.0);
        let svg = svg(&name.repeat(1000), &epochs);
        check(&svg);
        assert!(!svg.contains("<script") && !svg.contains('\u{202e}'));
        assert!(svg.contains("ééé…ééé"));
    }

    #[test]
    fn extreme_values_stay_on_the_page() {
        let extremes = [0.0, -0.0, 1.0, 5e-324, 1e-300, 1e-20, -1.0, 1.0 + f64::EPSILON, 1e29, -1e29, 1e300, f64::NAN];
        for a in extremes {
            for b in extremes {
                let mut epochs = run(2);
                for (e, v) in epochs.iter_mut().zip([a, b]) {
                    (e.lr, e.train_loss, e.test_loss, e.train_accuracy, e.test_accuracy) = (v, v, v, v, v);
                    (e.firing_rate, e.firing_rates) = (v, [("layer".to_owned(), v)].into());
                }
                check(&svg("extreme", &epochs));
                for (e, n) in epochs.iter_mut().zip([u64::MAX - 1, u64::MAX]) {
                    e.epoch = n;
                }
                check(&svg("extreme", &epochs));
            }
        }
        for [first, last] in [[0, 0], [0, u64::MAX], [7, 3], [1 << 53, (1 << 53) + 2]] {
            let mut epochs = run(2);
            (epochs[0].epoch, epochs[1].epoch) = (first, last);
            check(&svg("epochs", &epochs));
        }
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([0.25, 0.3, 1000.0].map(|v| decimal(v, 0.05)), ["0.25", "0.30", "1000.00"]);
        assert_eq!(
            (decimal(-0.0, 1.0), decimal(3e-7, 1e-7), decimal(20.0, 10.0)),
            ("0".into(), "3e-7".into(), "20".into())
        );
        assert_eq!([0.0, 0.123456, 12.3456, 4e-3, 1234.5].map(short), ["0", "0.123", "12.3", "4e-3", "1234"]);
        assert_eq!([0.0, 1e-5, 1.25e-3, 0.1].map(scientific), ["0", "1e-5", "1.25e-3", "1e-1"]);
    }
}
