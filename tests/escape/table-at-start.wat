;; Needs a table to begin with that is larger than any may be.
(core module $code
  (table 0x8000000 funcref)
  (func (export "handle") (param $request i32) (param $outparam i32)
    unreachable))
(core instance $guest (instantiate $code))
