use half::f16;

use crate::product::check_products;

#[test]
fn agrees_with_its_twin() {
    check_products::<f16>(9, 40, 150);
}
