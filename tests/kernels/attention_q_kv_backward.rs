use spikeshade::kernels::attention::kv_shape;
use spikeshade::kernels::attention_q_kv_backward::{AttentionQKvGradKv, AttentionQKvGradQueries};
use spikeshade::recording::Recording;
use spikeshade::reference::attention_q_kv::attention_q_kv;
use spikeshade::reference::attention_q_kv_backward::{attention_q_kv_grad_kv, attention_q_kv_grad_queries};
use spikeshade::tensor::{Element, vectors};

use crate::attention::cases;
use crate::harness::*;
use crate::product_backward::{adjoint, inner};

#[test]
fn agrees_with_its_twin_and_is_the_adjoint() {
    check(40, cases(), |case| {
        let (mut data, qkv) = case.data();
        let tokens = case.shape.steps * case.shape.rows();
        let shapes: Vec<_> = case.windows.iter().map(|&heads| kv_shape(case.shape, heads)).collect();
        let m: Vec<Vec<f32>> =
            shapes.iter().map(|s| data.reals(s.steps * s.rows() * s.channels, -64..=64, 0.25)).collect();
        let g: Vec<Vec<f32>> =
            case.windows.iter().map(|&heads| data.reals(tokens * heads.count * heads.dim, -16..=16, 0.125)).collect();
        let all = run(|| {
            let mut r = Recording::default();
            let (q, _) = case.record(&mut r, &qkv);
            let dq = output(&mut r, "dq", Element::Real, case.shape);
            for (i, &heads) in case.windows.iter().enumerate() {
                let layer = "attn".to_owned();
                let m = real(&mut r, &m[i], shapes[i]);
                let g = real_padded_with(&mut r, &g[i], case.window(heads), f32::NAN);
                let dm = output(&mut r, &format!("dm{i}"), Element::Real, shapes[i]);
                r.push(AttentionQKvGradKv { layer: layer.clone(), q, g, dm, heads });
                r.push(AttentionQKvGradQueries { layer, m, g, dq, heads });
            }
            r
        });
        if case.kind == Kind::Dyadic {
            all_same(&all);
        }
        // The windows' channels make up dQ.
        let mut dq = vec![0.0; tokens * 4 * vectors(case.shape.channels)];
        let (mut terms, mut sum) = (dq.clone(), 0.0);
        let mut sum_terms = 0.0;
        for (i, &heads) in case.windows.iter().enumerate() {
            let (m, g) = (f64s(&m[i]), f64s(&padded(&g[i], heads.count * heads.dim)));
            let dm_of = |g: &[f64]| {
                let mut dm = vec![0.0; m.len()];
                attention_q_kv_grad_kv(&qkv.q, g, case.shape, heads, &mut dm);
                dm
            };
            let (dm, dm_terms) = (dm_of(&g), dm_of(&magnitudes(&g)));
            reals_agree(&all, &format!("dm{i}"), case.kind, &dm, &dm_terms);
            attention_q_kv_grad_queries(&g, &m, case.shape, heads, &mut dq);
            attention_q_kv_grad_queries(&magnitudes(&g), &magnitudes(&m), case.shape, heads, &mut terms);

            // <g, Q m> = <dM, m>
            let mut o = vec![0.0; g.len()];
            attention_q_kv(&qkv.q, &m, case.shape, heads, &mut o);
            adjoint("dm", inner(&g, &o), inner(&dm, &m), inner(&dm_terms, &magnitudes(&m)));
            sum += inner(&g, &o);
            sum_terms += inner(&dm_terms, &magnitudes(&m));
        }
        let (dq, terms) = (unpadded(&dq, case.shape.channels), unpadded(&terms, case.shape.channels));
        reals_agree(&all, "dq", case.kind, &dq, &terms);
        // <g, q M> = <dQ, q>, over all windows
        let signs = signs_of_words(&qkv.q, Element::Spikes, case.shape.channels);
        let q: Vec<f64> = signs.iter().map(|&s| f64::from(s)).collect();
        adjoint("dq", sum, inner(&dq, &q), sum_terms);
    });
}
