;; Reads beyond its memory.
(core module $code
  (memory 1)
  (func (export "handle") (param $request i32) (param $outparam i32)
    (drop (i64.load offset=0xfffffff8 (i32.const -1)))))
(core instance $guest (instantiate $code))
