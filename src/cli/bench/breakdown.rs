//! Where the time of a run goes: by kernel or by layer.

use clap::ValueEnum;
use serde_json::{Value, json};

use super::Rates;
use crate::error::clip;
use crate::profile::{Ceilings, OpTime};

/// What a row is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum By {
    /// One kernel, wherever it runs
    #[default]
    Kernel,
    /// One layer, whatever it runs
    Layer,
}

/// The ops of a run with their times.
pub(super) struct Breakdown {
    /// Images of that run.
    pub images: usize,
    /// Its ops in order.
    pub ops: Vec<OpTime>,
    /// Of the layers whose spikes were counted.
    pub rates: Rates,
}

/// Ops that have a kernel or a layer in common.
#[derive(Clone, Debug, Default, PartialEq)]
struct Row {
    name: String,
    ops: u64,
    seconds: f64,
    bytes: u64,
    additions: u64,
    /// `None` if some of the additions are of spikes that were not counted.
    synaptic: Option<f64>,
    multiply_adds: u64,
}

impl Row {
    fn add(&mut self, op: &OpTime, rates: &Rates) {
        let additions = op.arithmetic.additions;
        let rate = if additions == 0 { Some(0.0) } else { op.spikes.as_ref().and_then(|s| rates.get(s)).copied() };
        self.ops += 1;
        self.seconds += op.time.as_secs_f64();
        self.bytes += op.bytes;
        self.additions += additions;
        self.synaptic = self.synaptic.zip(rate).map(|(sum, rate)| sum + rate * additions as f64);
        self.multiply_adds += op.arithmetic.multiply_adds;
    }

    fn bytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.seconds.max(1e-9)
    }

    fn operations_per_second(&self) -> f64 {
        (self.additions + self.multiply_adds) as f64 / self.seconds.max(1e-9)
    }
}

impl Breakdown {
    /// The longest first, and all together.
    fn rows(&self, by: By) -> (Vec<Row>, Row) {
        let new = |name: &str| Row { name: name.to_owned(), synaptic: Some(0.0), ..Row::default() };
        let mut rows: Vec<Row> = Vec::new();
        let mut all = new("all");
        for op in &self.ops {
            let name = match by {
                By::Kernel => op.kernel,
                By::Layer => &op.layer,
            };
            let at = rows.iter().position(|row| row.name == name).unwrap_or(rows.len());
            if at == rows.len() {
                rows.push(new(name));
            }
            rows[at].add(op, &self.rates);
            all.add(op, &self.rates);
        }
        rows.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        (rows, all)
    }

    pub fn as_text(&self, by: By, ceilings: &Ceilings) -> String {
        let (mut rows, all) = self.rows(by);
        let total = all.seconds;
        rows.push(all);
        let names: Vec<String> = rows.iter().map(|row| clip(&row.name)).collect();
        let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max(6);
        let what = match by {
            By::Kernel => "kernel",
            By::Layer => "layer",
        };
        let mut text = format!(
            "{what:width$}  ops       ms    share       MB    GB/s   copy     Gadd     Gsyn     Gmac    Gop/s    FMA\n"
        );
        for (row, name) in rows.iter().zip(names) {
            let giga = |n: f64| if n == 0.0 { "-".to_owned() } else { format!("{:.3}", n / 1e9) };
            let percent =
                |part: f64, of: f64| if part == 0.0 { "-".to_owned() } else { format!("{:.1}%", 100.0 * part / of) };
            let (moved, done) = (row.bytes_per_second(), row.operations_per_second());
            text += &format!(
                "{name:width$} {:4} {:8.3} {:>8} {:8.2} {:7.2} {:>6} {:>8} {:>8} {:>8} {:>8} {:>6}\n",
                row.ops,
                1e3 * row.seconds,
                percent(row.seconds, total.max(1e-12)),
                row.bytes as f64 / 1e6,
                moved / 1e9,
                percent(moved, ceilings.bytes),
                giga(row.additions as f64),
                row.synaptic.map_or_else(|| "?".to_owned(), giga),
                giga(row.multiply_adds as f64),
                if done == 0.0 { "-".to_owned() } else { format!("{:.2}", done / 1e9) },
                percent(done, ceilings.multiply_adds),
            );
        }
        text
    }

    pub fn as_json(&self, by: By, ceilings: &Ceilings) -> Value {
        let (rows, all) = self.rows(by);
        let as_json = |row: &Row| {
            json!({
                "name": row.name,
                "ops": row.ops,
                "seconds": row.seconds,
                "share": row.seconds / all.seconds.max(1e-12),
                "bytes": row.bytes,
                "additions": row.additions,
                "synaptic_operations": row.synaptic,
                "multiply_adds": row.multiply_adds,
                "bytes_per_second": row.bytes_per_second(),
                "operations_per_second": row.operations_per_second(),
                "of_copy": row.bytes_per_second() / ceilings.bytes,
                "of_multiply_adds": row.operations_per_second() / ceilings.multiply_adds,
            })
        };
        json!({
            "images": self.images,
            "by": match by {
                By::Kernel => "kernel",
                By::Layer => "layer",
            },
            "rows": rows.iter().map(as_json).collect::<Vec<_>>(),
            "all": as_json(&all),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::kernels::Arithmetic;

    fn op(kernel: &'static str, layer: &str, ms: u64, additions: u64, spikes: Option<&str>) -> OpTime {
        OpTime {
            kernel,
            layer: layer.to_owned(),
            time: Duration::from_millis(ms),
            bytes: 1000,
            arithmetic: Arithmetic { additions, ..Arithmetic::default() },
            spikes: spikes.map(str::to_owned),
        }
    }

    #[test]
    fn ops_add_up_by_kernel_and_by_layer() {
        let ops = vec![
            op("linear_spike", "a", 1, 100, Some("s")),
            op("lif", "a", 1, 0, None),
            op("linear_spike", "b", 5, 100, Some("t")),
            op("attention_qk_v", "b", 1, 100, None),
        ];
        let breakdown = Breakdown { images: 1, ops, rates: Rates::from([("s".into(), 0.5), ("t".into(), 0.25)]) };
        let (rows, all) = breakdown.rows(By::Kernel);
        let named = |row: &Row| (row.name.clone(), row.ops, row.additions, row.synaptic);
        assert_eq!(named(&rows[0]), ("linear_spike".to_owned(), 2, 200, Some(75.0)));
        assert!(rows.iter().any(|row| named(row) == ("lif".to_owned(), 1, 0, Some(0.0))));
        assert!(rows.iter().any(|row| named(row) == ("attention_qk_v".to_owned(), 1, 100, None)));
        assert_eq!((all.ops, all.bytes, all.additions, all.synaptic), (4, 4000, 300, None));
        assert!((all.seconds - 0.008).abs() < 1e-9);
        let (rows, _) = breakdown.rows(By::Layer);
        assert_eq!(rows.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(), ["b", "a"]);
        let text = breakdown.as_text(By::Kernel, &Ceilings { bytes: 1e9, multiply_adds: 1e9 });
        assert_eq!(text.lines().count(), 5, "{text}");
    }
}
