;; Needs more memory to begin with than it may have.
(core module $code
  (memory 60000)
  (func (export "handle") (param $request i32) (param $outparam i32)
    unreachable))
(core instance $guest (instantiate $code))
