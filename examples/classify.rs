//! Says which digit a picture shows, with the model that the library carries.
//!
//! `cargo run --release --example classify -- examples/images/seven.png [DEVICE]`

use std::sync::Arc;

use spikeshade::data::{Invert, Picture, Preparation};
use spikeshade::layers::Options;
use spikeshade::model::Model;
use spikeshade::session::{Device, Input, Session};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("give a picture: classify IMAGE [DEVICE]")?;
    let (device, note) = Device::open_blocking(&arguments.next().unwrap_or("auto".to_owned()))?;
    if let Some(note) = note {
        eprintln!("{note}");
    }
    let model = Arc::new(Model::built_in()?);
    let preparation = Preparation::new(model.config(), Invert::Auto)?;
    let input = Input { batch: 1, timesteps: None, data: preparation.prepare(&Picture::open(&path)?) };
    let output = Session::new(model, device).run_blocking(&input, None, Options::default())?;
    for (digit, logit) in output.logits.concat().iter().enumerate() {
        println!("{digit}: {logit:6.2}");
    }
    Ok(())
}
