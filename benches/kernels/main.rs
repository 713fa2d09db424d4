//! Every kernel on one adapter beside its twin on the processor, at the shapes of the cifar 2-256 model (T = 4, 15 % of the
//! neurons firing; one image forward, two backward), the optimizer's on a shard of parameters. Ids: `<stem>/gpu/<shape>` and
//! `<stem>/cpu/<shape>`; where the adapter runs a variant also `<stem>/portable/<shape>`, the portable kernel on the same adapter.
//!
//! `SPIKESHADE_BENCH_DEVICE` chooses the adapter as `--device` does; the default `gpu` is the best there is, software drivers
//! included, and `cpu` times the twins alone. A row is one replay of a plan of one op, or of the few that make up one gradient,
//! waited for, nothing read back: what a dispatch costs apart from its work stands in the control rows (a sum of 4 values, a
//! product of silent spikes, one of a single token, where a variant's win must vanish). Before anything is timed, the outputs of both are compared, bit for bit wherever the arithmetic
//! is exact, and a line tells how long a device that has never seen the row's kernels takes to compile and run them once (a
//! driver's own cache on disk may help it).

mod backward;
mod forward;
mod harness;
mod optimizer;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode};
use spikeshade::gpu::{Adapters, Context, Opening, Plan, Variants};
use spikeshade::kernels::Op;
use spikeshade::reference::Executor;

use harness::Row;

/// The adapters and the chosen one's index; `None` for the twins alone.
fn adapter() -> Result<Option<(Adapters, usize)>, spikeshade::Error> {
    let wanted = std::env::var("SPIKESHADE_BENCH_DEVICE").unwrap_or_else(|_| "gpu".to_owned());
    if wanted.eq_ignore_ascii_case("cpu") {
        return Ok(None);
    }
    let adapters = pollster::block_on(Adapters::enumerate());
    let index = adapters.choose(&wanted)?;
    Ok(Some((adapters, index)))
}

/// Compares every row's outputs and tells what each costs on a device that has not seen its kernels.
fn compare(rows: &[Row], adapters: &Adapters, index: usize) -> Result<bool, spikeshade::Error> {
    let mut equal = true;
    for (i, row) in rows.iter().enumerate() {
        let context = pollster::block_on(Context::open(adapters, index))?;
        if i == 0 {
            println!("adapter: {}\ncompiled and run once:", context.name());
        }
        let expected = Executor::new(row.recording(true))?.run(&[])?;
        let recording = row.recording(true);
        let start = Instant::now();
        let mut plan = pollster::block_on(Plan::new(&context, recording))?;
        let outputs = pollster::block_on(plan.run(&[]))?;
        let cold = start.elapsed();
        println!("{:10.1} ms  {}, {}", cold.as_secs_f64() * 1e3, row.stem, row.shape);
        if !row.agrees(&outputs, &expected) {
            eprintln!("{}, {}: the adapter's output differs from the twin's", row.stem, row.shape);
            equal = false;
        }
    }
    Ok(equal)
}

fn bench(criterion: &mut Criterion) -> Result<bool, spikeshade::Error> {
    let mut rows = forward::rows();
    rows.extend(backward::rows());
    rows.extend(optimizer::rows());
    let context = match adapter()? {
        Some((adapters, index)) => {
            if !compare(&rows, &adapters, index)? {
                return Ok(false);
            }
            Some(pollster::block_on(Context::open(&adapters, index))?)
        }
        None => None,
    };
    let portable = match adapter()? {
        Some((adapters, index)) => {
            let opening = Opening { variants: Variants::Portable, ..Opening::from_env()? };
            let opened = Context::open_with(&adapters, index, opening);
            Some(pollster::block_on(opened)?)
        }
        None => None,
    };
    for row in &rows {
        let mut group = criterion.benchmark_group(row.stem);
        group.sampling_mode(SamplingMode::Flat);
        if let Some(context) = &context {
            let mut plan = pollster::block_on(Plan::new(context, row.recording(false)))?;
            pollster::block_on(plan.run(&[]))?;
            group.bench_function(format!("gpu/{}", row.shape), |b| {
                b.iter(|| pollster::block_on(plan.run(&[])).unwrap())
            });
        }
        let recording = row.recording(false);
        let varies = context.as_ref().is_some_and(|context| {
            let stem = |op: &dyn Op| op.dispatch_on(&recording, context.capabilities()).kernel.stem;
            recording.ops().any(|op| stem(op) != op.kernel().stem)
        });
        if let (Some(context), true) = (&portable, varies) {
            let mut plan = pollster::block_on(Plan::new(context, recording))?;
            pollster::block_on(plan.run(&[]))?;
            group.bench_function(format!("portable/{}", row.shape), |b| {
                b.iter(|| pollster::block_on(plan.run(&[])).unwrap())
            });
        }
        let mut executor = Executor::new(row.recording(false))?;
        group.bench_function(format!("cpu/{}", row.shape), |b| b.iter(|| executor.run(&[]).unwrap()));
        group.finish();
    }
    Ok(true)
}

fn main() -> ExitCode {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    match bench(&mut criterion) {
        Ok(true) => {
            criterion.final_summary();
            ExitCode::SUCCESS
        }
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}
