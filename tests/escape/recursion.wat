;; Calls itself without end.
(core module $code
  (func $deeper (param i64) (result i64) (i64.add (local.get 0) (call $deeper (i64.add (local.get 0) (i64.const 1)))))
  (func (export "handle") (param $request i32) (param $outparam i32)
    (call $deeper (i64.const 0)) drop))
(core instance $guest (instantiate $code))
