use proptest::prelude::*;
use spikeshade::kernels::Op;
use spikeshade::kernels::attention::kv_shape;
use spikeshade::kernels::attention_fused::{AttentionFused, MOST_CHANNELS};
use spikeshade::kernels::attention_kv::AttentionKv;
use spikeshade::kernels::attention_q_kv::AttentionQKv;
use spikeshade::recording::Recording;
use spikeshade::reference::attention_kv::attention_kv;
use spikeshade::reference::attention_q_kv::attention_q_kv;
use spikeshade::tensor::Element;

use crate::attention::{Case, cases_of, positive};
use crate::harness::*;

fn heads_that_fit() -> impl Strategy<Value = Case> {
    cases_of(prop_oneof![
        Just(3usize),
        Just(8),
        Just(12),
        Just(20),
        Just(32),
        Just(33),
        Just(MOST_CHANNELS),
        1..=64usize
    ])
}

/// With its twin, and on every device to the bit with the two kernels whose place it takes.
#[test]
fn agrees_with_its_twin() {
    check(64, heads_that_fit(), |case| {
        let (_, qkv) = case.data();
        let all = run(|| {
            let mut r = Recording::default();
            let (q, v) = case.record(&mut r, &qkv);
            for (i, (&heads, k)) in case.windows.iter().zip(&qkv.k).enumerate() {
                let layer = "attn".to_owned();
                let k = real(&mut r, k, case.window(heads));
                let o = output(&mut r, &format!("o{i}"), Element::Real, case.window(heads));
                r.push(AttentionFused { layer: layer.clone(), q, k, v, o, heads });
                let m = r.tensor("kv", Element::Real, kv_shape(case.shape, heads));
                r.push(AttentionKv { layer: layer.clone(), k, v, m, heads });
                let o = output(&mut r, &format!("two kernels' o{i}"), Element::Real, case.window(heads));
                r.push(AttentionQKv { layer, q, m, o, heads });
            }
            r
        });
        variants_same(&all, |_| false);
        for (i, (&heads, k)) in case.windows.iter().zip(&qkv.k).enumerate() {
            for (device, outputs) in &all {
                let [fused, two] = [format!("o{i}"), format!("two kernels' o{i}")];
                let [fused, two] = [fused, two].map(|name| &outputs.get(&name).unwrap().values);
                same(&format!("o{i} of one kernel and of two on {device}"), fused, two);
            }
            let channels = heads.count * heads.dim;
            let k = f64s(&padded(k, channels));
            let kv = kv_shape(case.shape, heads);
            let of = |v: &[u32]| {
                let mut m = vec![0.0; kv.steps * kv.rows() * kv.channels];
                attention_kv(&k, v, case.shape, heads, &mut m);
                let mut o = vec![0.0; case.shape.steps * case.shape.rows() * channels.next_multiple_of(4)];
                attention_q_kv(&qkv.q, &m, case.shape, heads, &mut o);
                unpadded(&o, channels)
            };
            reals_agree(&all, &format!("o{i}"), case.kind, &of(&qkv.v), &of(&positive(&qkv.v, case.shape)));
        }
    });
}

/// As many heads as a workgroup has threads for share one.
#[test]
fn small_heads_share_a_workgroup() {
    let grid = |dim, count| {
        let mut r = Recording::default();
        let case = Case::of(dim, count);
        let (_, qkv) = case.data();
        let (q, v) = case.record(&mut r, &qkv);
        let heads = case.windows[0];
        let k = real(&mut r, &qkv.k[0], case.window(heads));
        let o = output(&mut r, "o", Element::Real, case.window(heads));
        let dispatch = AttentionFused { layer: String::new(), q, k, v, o, heads }.dispatch(&r);
        (dispatch.groups.fold(65_535).unwrap()[0], dispatch.constants)
    };
    // 64 threads have 4 x 4 blocks for as many heads of 8 channels as they hold 2 x 2 blocks, and so on.
    for (dim, count, groups, blocks) in [
        (8, 16, 1, 8.0),
        (8, 17, 2, 8.0),
        (12, 7, 1, 8.0),
        (12, 8, 2, 8.0),
        (32, 3, 3, 8.0),
        (33, 3, 1, 16.0),
        (33, 4, 2, 16.0),
        (64, 2, 2, 16.0),
    ] {
        assert_eq!(grid(dim, count), (groups, vec![("BLOCKS", blocks)]), "{count} heads of {dim}");
    }
}
