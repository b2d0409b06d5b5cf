;; Divides by zero.
(core module $code
  (func (export "handle") (param $request i32) (param $outparam i32)
    (drop (i32.div_u (i32.const 1) (i32.const 0)))))
(core instance $guest (instantiate $code))
