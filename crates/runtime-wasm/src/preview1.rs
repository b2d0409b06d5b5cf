//! Commands that are core modules of WASI preview 1: no components, and so not kept in the cache of those.
//!
//! They run on Wasmtime's own preview 1 rather than as components through its adapter, which would turn every exit status
//! but 0 into 1 (docs/decisions/0004-preview-1.md).

use std::sync::Arc;
use std::time::Instant;

use wasmtime::{Linker, Module, Store, UpdateDeadline};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi::p1::{WasiP1Ctx, add_to_linker_async};

use crate::command::CommandSettings;
use crate::engine::{Concurrency, Wasm};
use crate::fault::Fault;
use crate::host::{CpuUsedUp, DeadlinePassed, TICKS_BEFORE_YIELD, within};
use crate::limits::Limiter;
use crate::logs::{GuestOutput, LogStream};
use crate::meter::Meter;

/// What belongs to the instance on the host's side.
struct State {
    wasi: WasiP1Ctx,
    limiter: Limiter,
}

/// Runs a module to its end; answers its exit status.
///
/// # Errors
/// When it is no command of preview 1, or fails otherwise than by exiting.
pub async fn run(wasm: &Wasm, module: &[u8], settings: &CommandSettings) -> Result<i32, Fault> {
    let invalid = |error: wasmtime::Error| Fault::Protocol { reason: format!("{error:#}") };
    let engine = &wasm.flavor(Concurrency::Sequential).engine;
    let module = Module::from_binary(engine, module).map_err(invalid)?;
    let mut linker = Linker::new(engine);
    add_to_linker_async(&mut linker, |state: &mut State| &mut state.wasi).map_err(invalid)?;
    let meter = Meter::new(None);
    let mut store = store(wasm, settings, &meter)?;
    let _ticking = wasm.tick();
    let ran = within(Instant::now() + settings.limits.timeout, async {
        let instance = linker.instantiate_async(&mut store, &module).await?;
        instance.get_typed_func::<(), ()>(&mut store, "_start")?.call_async(&mut store, ()).await
    });
    match meter.over(ran).await {
        Ok(()) => Ok(0),
        Err(error) => match error.downcast_ref::<I32Exit>() {
            Some(exit) => Ok(exit.0),
            None if error.is::<DeadlinePassed>() => Err(Fault::Timeout { limit: settings.limits.timeout }),
            None if error.is::<CpuUsedUp>() => Err(Fault::Cpu { limit: settings.limits.cpu.unwrap_or_default() }),
            None => Err(Fault::Trap { cause: format!("{error:#}") }),
        },
    }
}

fn store(wasm: &Wasm, settings: &CommandSettings, meter: &Meter) -> Result<Store<State>, Fault> {
    let CommandSettings { limits, logs, .. } = settings;
    let (rate, allowance) = (limits.log_lines_per_second, meter.allowance());
    let output = |stream| GuestOutput::new(Arc::clone(logs), stream, rate, Arc::clone(&allowance));
    let wasi = settings.setup(meter).wasi(&output(LogStream::Stdout), &output(LogStream::Stderr));
    let wasi = wasi.map_err(|error| Fault::Setup { reason: format!("{error:#}") })?.build_p1();
    let state = State { wasi, limiter: Limiter::new(*limits, meter.clone()) };
    let mut store = Store::new(&wasm.flavor(Concurrency::Sequential).engine, state);
    store.limiter(|state| &mut state.limiter);
    let (deadline, cpu, meter) = (Instant::now() + limits.timeout, limits.cpu, meter.clone());
    store.epoch_deadline_callback(move |_| {
        if Instant::now() >= deadline {
            return Err(DeadlinePassed.into());
        }
        if cpu.is_some_and(|limit| meter.call_cpu() > limit) {
            return Err(CpuUsedUp.into());
        }
        Ok(UpdateDeadline::YieldCustom(TICKS_BEFORE_YIELD, Box::pin(tokio::task::yield_now())))
    });
    store.set_epoch_deadline(TICKS_BEFORE_YIELD);
    Ok(store)
}
