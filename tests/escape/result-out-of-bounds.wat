;; Lets the host write a result beyond its memory.
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
(core func $path (canon lower (func $types "[method]incoming-request.path-with-query") (memory $memory) (realloc $realloc)))
(core module $code
  (import "host" "path" (func $path (param i32 i32)))
  (import "lib" "memory" (memory 1))
  (func (export "handle") (param $request i32) (param $outparam i32)
    (call $path (local.get $request) (i32.const 0xfffffff0))))
(core instance $guest (instantiate $code
  (with "lib" (instance $lib))
  (with "host" (instance (export "path" (func $path))))))
