// `hello`: a function that answers HTTP requests.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bindings/app.h"

// The most that is read of a request, and thereby the longest name that is greeted.
#define NAME_BYTES_MAX 256

// Reads the body of a request. Answers the status of the answer: 200, or why the body cannot be taken.
static uint16_t read_body(wasi_http_types_borrow_incoming_request_t request, char *text, size_t room, size_t *length) {
    wasi_http_types_own_incoming_body_t body;
    wasi_http_types_own_input_stream_t stream;
    *length = 0;
    if (!wasi_http_types_method_incoming_request_consume(request, &body)) return 500;
    if (!wasi_http_types_method_incoming_body_stream(wasi_http_types_borrow_incoming_body(body), &stream)) return 500;

    uint16_t status = 0;
    while (status == 0) {
        app_list_u8_t chunk;
        wasi_io_streams_stream_error_t error;
        if (!wasi_io_streams_method_input_stream_blocking_read(
                wasi_io_streams_borrow_input_stream(stream), NAME_BYTES_MAX, &chunk, &error)) {
            // A body that is complete ends with `closed`; another error means that it broke off.
            status = error.tag == WASI_IO_STREAMS_STREAM_ERROR_CLOSED ? 200 : 400;
            wasi_io_streams_stream_error_free(&error);
        } else {
            if (chunk.len > room - *length) {
                status = 413;
            } else {
                memcpy(text + *length, chunk.ptr, chunk.len);
                *length += chunk.len;
            }
            app_list_u8_free(&chunk);
        }
    }
    // A stream is a child of its body, and goes first.
    wasi_io_streams_input_stream_drop_own(stream);
    wasi_http_types_incoming_body_drop_own(body);
    return status;
}

// Answers with text.
static void answer(wasi_http_types_own_response_outparam_t response_out, uint16_t status, const char *text) {
    wasi_http_types_own_outgoing_response_t response =
        wasi_http_types_constructor_outgoing_response(wasi_http_types_constructor_fields());
    wasi_http_types_method_outgoing_response_set_status_code(
        wasi_http_types_borrow_outgoing_response(response), status);

    wasi_http_types_own_outgoing_body_t body;
    wasi_http_types_own_output_stream_t stream;
    wasi_http_types_method_outgoing_response_body(wasi_http_types_borrow_outgoing_response(response), &body);
    wasi_http_types_method_outgoing_body_write(wasi_http_types_borrow_outgoing_body(body), &stream);
    wasi_http_types_result_own_outgoing_response_error_code_t result = {.is_err = false, .val.ok = response};
    wasi_http_types_static_response_outparam_set(response_out, &result);

    app_list_u8_t content = {.ptr = (uint8_t *)text, .len = strlen(text)};
    wasi_io_streams_stream_error_t stream_error;
    if (!wasi_io_streams_method_output_stream_blocking_write_and_flush(
            wasi_io_streams_borrow_output_stream(stream), &content, &stream_error)) {
        wasi_io_streams_stream_error_free(&stream_error);
    }
    wasi_io_streams_output_stream_drop_own(stream);
    wasi_http_types_error_code_t error;
    if (!wasi_http_types_static_outgoing_body_finish(body, NULL, &error)) wasi_http_types_error_code_free(&error);
}

// Greets whoever the body names; it is plain text.
void exports_wasi_http_incoming_handler_handle(
    exports_wasi_http_incoming_handler_own_incoming_request_t request,
    exports_wasi_http_incoming_handler_own_response_outparam_t response_out) {
    char name[NAME_BYTES_MAX], text[2 * NAME_BYTES_MAX];
    size_t length;
    uint16_t status = read_body(wasi_http_types_borrow_incoming_request(request), name, sizeof name, &length);
    wasi_http_types_incoming_request_drop_own(request);
    if (status != 200) {
        answer(response_out, status, status == 413 ? "a name has no more than 256 bytes\n" : "no body came\n");
        return;
    }
    // The function's `config` is its environment.
    const char *greeting = getenv("GREETING");
    if (greeting == NULL) greeting = "Hello";
    if (length == 0) {
        snprintf(text, sizeof text, "%s, world!\n", greeting);
    } else {
        snprintf(text, sizeof text, "%s, %.*s!\n", greeting, (int)length, name);
    }
    answer(response_out, 200, text);
}
