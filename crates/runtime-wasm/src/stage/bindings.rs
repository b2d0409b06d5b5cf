//! Made from `wit/flow`. Inputs are borrowed, so that Arrow's buffers are copied once, into the guest.
#![allow(missing_docs, unreachable_pub, clippy::all, clippy::restriction)]

wasmtime::component::bindgen!({
    path: "../../wit/flow",
    world: "stage",
    ownership: Borrowing { duplicate_if_necessary: true },
    exports: { default: async },
});
