;; What stands before each `*.wat` of this folder: the types of a request, and core functions that act on them.
;; `epilogue.wat` follows and exports the handler, which is the core instance `$guest`.
(import "wasi:http/types@0.2.0" (instance $types
  (export "fields" (type $fields (sub resource)))
  (export "incoming-request" (type $incoming (sub resource)))
  (export "response-outparam" (type $outparam (sub resource)))
  (type $error-shape (variant (case "invalid-syntax") (case "forbidden") (case "immutable")))
  (export "header-error" (type $error (eq $error-shape)))
  (export "[constructor]fields" (func (result (own $fields))))
  (export "[method]fields.has" (func (param "self" (borrow $fields)) (param "name" string) (result bool)))
  (export "[method]fields.set" (func (param "self" (borrow $fields)) (param "name" string)
    (param "value" (list (list u8))) (result (result (error $error)))))
  (export "[method]incoming-request.path-with-query" (func (param "self" (borrow $incoming)) (result (option string))))))
(import "wasi:random/random@0.2.0" (instance $random
  (export "get-random-bytes" (func (param "len" u64) (result (list u8))))))
(alias export $types "fields" (type $fields))
(alias export $types "incoming-request" (type $request))
(alias export $types "response-outparam" (type $outparam))
