//! Made from `wit/fabric` and `wit/wasi`.
#![allow(missing_docs, unreachable_pub, clippy::all, clippy::restriction)]

/// Our own package, and the world of typed handlers.
pub mod typed {
    wasmtime::component::bindgen!({
        path: "../../wit/fabric",
        world: "typed",
        imports: { "littoral:fabric/devices": async | trappable },
        with: { "littoral:fabric/devices.device": crate::fabric::devices::Opened },
        exports: { default: async },
    });
}

/// The proposals of WASI.
pub mod proposals {
    wasmtime::component::bindgen!({
        path: ["../../wit/wasi/config", "../../wit/wasi/keyvalue", "../../wit/wasi/logging"],
        inline: "
            package littoral:node;
            world proposals {
                include wasi:config/imports@0.2.0-rc.1;
                include wasi:keyvalue/imports@0.2.0-draft;
                include wasi:logging/imports@0.1.0-draft;
            }
        ",
        world: "littoral:node/proposals",
        imports: { "wasi:keyvalue": async | trappable, default: trappable },
        with: { "wasi:keyvalue/store.bucket": crate::fabric::keyvalue::Bucket },
    });
}
