;; Grows its memory until it is refused, and then does not give up: it traps.
(core module $code
  (memory 1)
  (func (export "handle") (param $request i32) (param $outparam i32)
    (loop $again (br_if $again (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable))
(core instance $guest (instantiate $code))
