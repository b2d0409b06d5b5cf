;; Fills all of its memory, again and again: it gives way only between the fills.
(core module $code
  (memory 0x300)
  (func (export "handle") (param $request i32) (param $outparam i32)
    (loop $again
      (memory.fill (i32.const 0) (i32.const 7) (i32.const 0x3000000))
      (memory.copy (i32.const 0) (i32.const 0x1000000) (i32.const 0x2000000))
      (br $again))))
(core instance $guest (instantiate $code))
