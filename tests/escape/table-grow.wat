;; Grows its table until it is refused; traps if it never is, answers nothing if it is.
(core module $code
  (table 1 funcref)
  (func (export "handle") (param $request i32) (param $outparam i32)
    (loop $again
      (if (i32.gt_u (table.size) (i32.const 0x1000000)) (then (loop $caught (br $caught))))
      (br_if $again (i32.ne (table.grow (ref.null func) (i32.const 0x4000)) (i32.const -1))))))
(core instance $guest (instantiate $code))
