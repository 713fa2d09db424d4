//! Shows how often the neurons of each layer fire on a picture.
//!
//! `cargo run --release --example firing_rates -- examples/images/seven.png`

use std::sync::Arc;

use spikeshade::data::{Invert, Picture, Preparation};
use spikeshade::layers::Options;
use spikeshade::model::Model;
use spikeshade::session::{Device, Input, Session};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("give a picture: firing_rates IMAGE")?;
    let model = Arc::new(Model::built_in()?);
    let preparation = Preparation::new(model.config(), Invert::Auto)?;
    let input = Input { batch: 1, timesteps: None, data: preparation.prepare(&Picture::open(&path)?) };
    let (device, _) = Device::open_blocking("auto")?;
    let options = Options { count: true, ..Options::default() };
    let output = Session::new(model, device).run_blocking(&input, None, options)?;
    for count in &output.counts {
        let rate = count.spikes as f64 / count.possible as f64;
        println!("{:27} {:6.2} %  {}", count.layer, 100.0 * rate, "#".repeat((60.0 * rate) as usize));
    }
    println!("{:27} {:6.2} %", "all", 100.0 * output.firing_rate().unwrap_or_default());
    Ok(())
}
