;; Computes for ever.
(core module $code
  (func (export "handle") (param $request i32) (param $outparam i32)
    (loop $again (br $again))))
(core instance $guest (instantiate $code))
