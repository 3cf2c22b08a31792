package org.json;

import java.util.Iterator;

public class JSONObject {
    public JSONObject() {}

    public JSONObject(String json) throws JSONException {}

    public JSONObject put(String name, Object value) throws JSONException {
        throw new UnsupportedOperationException();
    }

    public JSONObject put(String name, long value) throws JSONException {
        throw new UnsupportedOperationException();
    }

    public JSONObject putOpt(String name, Object value) throws JSONException {
        throw new UnsupportedOperationException();
    }

    public boolean has(String name) {
        throw new UnsupportedOperationException();
    }

    public boolean optBoolean(String name) {
        throw new UnsupportedOperationException();
    }

    public long getLong(String name) throws JSONException {
        throw new UnsupportedOperationException();
    }

    public boolean isNull(String name) {
        throw new UnsupportedOperationException();
    }

    public String getString(String name) throws JSONException {
        throw new UnsupportedOperationException();
    }

    public JSONObject getJSONObject(String name) throws JSONException {
        throw new UnsupportedOperationException();
    }

    public Iterator<String> keys() {
        throw new UnsupportedOperationException();
    }
}
