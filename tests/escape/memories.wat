;; Memory after memory, each within the limit: together they are beyond it.
(core module $code
  (memory 1) (memory 1) (memory 1) (memory 1) (memory 1) (memory 1) (memory 1) (memory 1)
  (func (export "handle") (param i32 i32)
    (loop $again
      (br_if $again (i32.ne (i32.const -1) (memory.grow 0 (i32.const 16))))
      (br_if $again (i32.ne (i32.const -1) (memory.grow 1 (i32.const 16))))
      (br_if $again (i32.ne (i32.const -1) (memory.grow 2 (i32.const 16))))
      (br_if $again (i32.ne (i32.const -1) (memory.grow 3 (i32.const 16)))))
    unreachable))
(core instance $guest (instantiate $code))
