;; Returns without an answer, and keeps what it was handed.
(core module $code
  (func (export "handle") (param $request i32) (param $outparam i32)
    ))
(core instance $guest (instantiate $code))
