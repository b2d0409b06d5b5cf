;; Hands over a list of more elements than an address space has.
(core module $lib
  (memory (export "memory") 2)
  (global $next (mut i32) (i32.const 4096))
  (func (export "realloc") (param $old i32) (param $was i32) (param $align i32) (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $next) (i32.const 15)) (i32.const -16)))
    (global.set $next (i32.add (local.get $at) (local.get $size)))
    (local.get $at)))
(core instance $lib (instantiate $lib))
(alias core export $lib "memory" (core memory $memory))
(alias core export $lib "realloc" (core func $realloc))
(core func $new (canon lower (func $types "[constructor]fields")))
(core func $set (canon lower (func $types "[method]fields.set") (memory $memory) (realloc $realloc)))
(core module $code
  (import "host" "new" (func $new (result i32)))
  (import "host" "set" (func $set (param i32 i32 i32 i32 i32 i32)))
  (import "lib" "memory" (memory 1))
  (func (export "handle") (param $request i32) (param $outparam i32)
    (call $set (call $new) (i32.const 16) (i32.const 1) (i32.const 32) (i32.const 0x7fffffff) (i32.const 64))))
(core instance $guest (instantiate $code
  (with "lib" (instance $lib))
  (with "host" (instance (export "new" (func $new)) (export "set" (func $set))))))
