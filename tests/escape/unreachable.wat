;; Traps at once.
(core module $code
  (func (export "handle") (param $request i32) (param $outparam i32)
    unreachable))
(core instance $guest (instantiate $code))
