use spikeshade::kernels::attention::kv_shape;
use spikeshade::kernels::attention_kv_backward::{AttentionKvGradKeys, AttentionKvGradValues};
use spikeshade::recording::Recording;
use spikeshade::reference::attention_kv::attention_kv;
use spikeshade::reference::attention_kv_backward::{attention_kv_grad_keys, attention_kv_grad_values};
use spikeshade::tensor::{Element, vectors};

use crate::attention::{cases, positive};
use crate::harness::*;
use crate::product_backward::{adjoint, inner};

#[test]
fn agrees_with_its_twin_and_is_the_adjoint() {
    check(40, cases(), |case| {
        let (mut data, qkv) = case.data();
        let tokens = case.shape.steps * case.shape.rows();
        let shapes: Vec<_> = case.windows.iter().map(|&heads| kv_shape(case.shape, heads)).collect();
        let dm: Vec<Vec<f32>> =
            shapes.iter().map(|s| data.reals(s.steps * s.rows() * s.channels, -32..=32, 0.125)).collect();
        let all = run(|| {
            let mut r = Recording::default();
            let (_, v) = case.record(&mut r, &qkv);
            let dv = output(&mut r, "dv", Element::Real, case.shape);
            for (i, &heads) in case.windows.iter().enumerate() {
                let layer = "attn".to_owned();
                let k = real_padded_with(&mut r, &qkv.k[i], case.window(heads), f32::NAN);
                let dm = real(&mut r, &dm[i], shapes[i]);
                let dk = output(&mut r, &format!("dk{i}"), Element::Real, case.window(heads));
                r.push(AttentionKvGradKeys { layer: layer.clone(), k, v, dm, dk, heads });
                r.push(AttentionKvGradValues { layer, k, dm, dv, heads });
            }
            r
        });
        if case.kind == Kind::Dyadic {
            all_same(&all);
        }
        // The windows' channels make up dV.
        let mut dv = vec![0.0; tokens * 4 * vectors(case.shape.channels)];
        let (mut terms, mut sum, mut sum_terms) = (dv.clone(), 0.0, 0.0);
        for (i, &heads) in case.windows.iter().enumerate() {
            let channels = heads.count * heads.dim;
            let (k, dm) = (f64s(&padded(&qkv.k[i], channels)), f64s(&dm[i]));
            let dk_of = |v: &[u32], dm: &[f64]| {
                let mut dk = vec![0.0; k.len()];
                attention_kv_grad_keys(&k, v, dm, case.shape, heads, &mut dk);
                dk
            };
            let (dk, dk_terms) = (dk_of(&qkv.v, &dm), dk_of(&positive(&qkv.v, case.shape), &magnitudes(&dm)));
            reals_agree(&all, &format!("dk{i}"), case.kind, &unpadded(&dk, channels), &unpadded(&dk_terms, channels));
            attention_kv_grad_values(&k, &dm, case.shape, heads, &mut dv);
            attention_kv_grad_values(&k, &magnitudes(&dm), case.shape, heads, &mut terms);

            // <dM, kᵀ V> = <dK, k> for k that are silent where K is, as far as the ReLU lets through.
            let other = data.reals(k.len(), 1..=16, 0.3);
            let other: Vec<f64> =
                k.iter().zip(&other).map(|(&k, &x)| if k > 0.0 { f64::from(x) } else { 0.0 }).collect();
            for k in [&k, &other] {
                let mut m = vec![0.0; dm.len()];
                attention_kv(k, &qkv.v, case.shape, heads, &mut m);
                adjoint("dk", inner(&dm, &m), inner(&dk, k), inner(&dk_terms, k));
            }
            let mut m = vec![0.0; dm.len()];
            attention_kv(&k, &qkv.v, case.shape, heads, &mut m);
            sum += inner(&dm, &m);
            sum_terms += inner(&dk_terms, &k);
        }
        let (dv, terms) = (unpadded(&dv, case.shape.channels), unpadded(&terms, case.shape.channels));
        reals_agree(&all, "dv", case.kind, &dv, &terms);
        // <dM, Kᵀ v> = <dV, v>, over all windows
        let signs = signs_of_words(&qkv.v, Element::Ternary, case.shape.channels);
        let v: Vec<f64> = signs.iter().map(|&s| f64::from(s)).collect();
        adjoint("dv", sum, inner(&dv, &v), sum_terms);
    });
}
