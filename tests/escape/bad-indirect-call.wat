;; Calls what is in no table, and what has another type.
(core module $code
  (table 1 funcref)
  (func (export "handle") (param $request i32) (param $outparam i32)
    (call_indirect (param i32) (local.get 0) (i32.const 5))))
(core instance $guest (instantiate $code))
