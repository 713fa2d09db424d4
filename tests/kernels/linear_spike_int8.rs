use crate::product::check_products;

#[test]
fn agrees_with_its_twin() {
    check_products::<i8>(1, 48, 400);
}
